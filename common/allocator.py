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
    """What was freed before goes back now; from here on blocks of a megabyte and more are mapped
    one by one, and unmapped when they are freed. It costs page faults: for work whose memory must
    stay small."""
    library = ctypes.CDLL(None)
    trim, set_option = (getattr(library, name, None) for name in ("malloc_trim", "mallopt"))
    if trim is None or set_option is None:  # another C library
        yield
        return
    trim(0)
    set_option(_MMAP_THRESHOLD, _BLOCK_BYTES)
    try:
        yield
    finally:
        set_option(_MMAP_THRESHOLD, _OWN_BYTES)
        set_option(_TRIM_THRESHOLD, 2 * _OWN_BYTES)
