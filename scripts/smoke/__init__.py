"""Source of the bundle's `smoke_test.py`, which `toolchain.export.smoke_script` makes of it."""
