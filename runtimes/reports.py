"""Engines that report to their makers what they load and run are told not to.

keep_to_itself()
import onnxruntime
"""

from __future__ import annotations

import os

# onnxruntime (from 1.29 on) and onnxruntime-genai: read once, when they are imported. A value that
# somebody set stays.
_OFF = {"ORT_DISABLE_TELEMETRY": "1"}


def keep_to_itself() -> None:
    """Turn these reports off, for this process and those that it starts."""
    for name, value in _OFF.items():
        os.environ.setdefault(name, value)
