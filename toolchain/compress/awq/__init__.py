"""Scales moved between neighbouring modules, so that what matters is rounded finely (AWQ)."""
