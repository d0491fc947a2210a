"""Engines and libraries that report to their makers what they load and run are told not to.

keep_to_itself()
import onnxruntime
"""

from __future__ import annotations

import os

# Read once, when the package is imported. A value that somebody set stays.
_OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime (from 1.29 on) and onnxruntime-genai
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets asks a server for every file that it reads
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub: what runs here, in each request
}


def keep_to_itself() -> None:
    """Turn these reports off, for this process and those that it starts."""
    for name, value in _OFF.items():
        os.environ.setdefault(name, value)
