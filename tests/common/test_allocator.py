"""Freed memory goes back to the system."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from common.allocator import freed_at_once

_BLOCK_BYTES, _BLOCKS = 4 << 20, 16


def _resident_bytes() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(text.split("Anonymous:")[1].split()[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_nothing_of_freed_blocks_stays() -> None:
    """Every second one is kept for a while, so that a heap would have holes."""
    with freed_at_once():
        before = _resident_bytes()
        blocks = [np.ones(_BLOCK_BYTES, np.uint8) for _ in range(_BLOCKS)]
        assert _resident_bytes() - before > 0.9 * _BLOCKS * _BLOCK_BYTES
        del blocks[::2]
        assert _resident_bytes() - before < 0.6 * _BLOCKS * _BLOCK_BYTES
