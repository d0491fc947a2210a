"""Memory that is freed goes back to the system, where the C library is glibc.

    with freed_at_once():
        ...  # large tensors come and go

Once blocks of up to 32 MB have been freed, glibc takes them from its heap, and the heap's holes
stay resident: as much again as the tensors themselves, as measured.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_BLOCK_BYTES = 1 << 20
# Where glibc's own rule ends up when blocks of all sizes are freed.
_OWN_BYTES = 32 << 20


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Blocks of a megabyte and more are mapped one by one, and unmapped when they are freed. It
    costs page faults: for work whose memory must stay small."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:  # another C library
        yield
        return
    set_option(_MMAP_THRESHOLD, _BLOCK_BYTES)
    try:
        yield
    finally:
        set_option(_MMAP_THRESHOLD, _OWN_BYTES)
        set_option(_TRIM_THRESHOLD, 2 * _OWN_BYTES)
