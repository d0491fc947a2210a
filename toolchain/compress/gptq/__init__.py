"""Rounding into a file's own blocks by calibration: one weight's error is mended by others."""
