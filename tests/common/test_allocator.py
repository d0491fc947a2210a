"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# In a process of its own: the heap of one that ran other tests has room for the blocks.
_CODE = """
from pathlib import Path
import numpy as np
from common.allocator import freed_at_once

def resident_bytes():
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(text.split("Anonymous:")[1].split()[0])

size, count = 4 << 20, 16
with freed_at_once():
    before = resident_bytes()
    blocks = [np.ones(size, np.uint8) for _ in range(count)]
    print((resident_bytes() - before) / (size * count))
    del blocks[::2]  # a heap would have holes
    print((resident_bytes() - before) / (size * count))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_nothing_of_freed_blocks_stays() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CODE], capture_output=True, text=True, check=True, cwd=ROOT
    )
    held, left = map(float, done.stdout.split())
    assert held > 0.9 and left < 0.6
