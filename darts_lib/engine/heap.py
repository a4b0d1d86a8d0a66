"""The C library's heap, told to keep what one step frees for the next.

A step on the CPU takes and frees up to a gigabyte. glibc hands a part of it back to the system each
time, and taking it again costs a page fault for every 4 KiB: a tenth to a quarter of a fused step.
"""

import ctypes
import sys
from typing import Any

KEPT = 2**31 - 1
"""Bytes free at the heap's top that are kept; the largest value glibc takes."""
FROM_HEAP = 32 * 2**20
"""Blocks below this many bytes come from the heap; the largest value glibc documents."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them


def keep_freed_memory() -> None:
    """Keep freed memory in this process; where the C library is not glibc, do nothing."""
    library = _glibc()
    if library:
        library.mallopt(_MMAP_THRESHOLD, FROM_HEAP)
        library.mallopt(_TRIM_THRESHOLD, KEPT)


def give_back_memory() -> None:
    """Give what is free back to the system now."""
    library = _glibc()
    if library:
        library.malloc_trim(0)


def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
