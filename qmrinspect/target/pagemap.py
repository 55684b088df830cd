"""Touched pages
-------------

Which pages of a process hold something.  A page that was never touched, or only read so
that the kernel shows its one page of zeros there, is zeros without being looked at; looking
would map that page of zeros into the process.

Rests on ``PAGEMAP_SCAN`` (Linux 6.7), or on ``/proc/PID/pagemap`` (bit 63 present, bit 62
swapped), which does not tell the page of zeros.  Where neither may be read, all pages count
as touched.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator

from .image import PAGE, Ranges

__all__ = ["touched"]

# include/uapi/linux/fs.h
_PAGEMAP_SCAN = 0xC0606610
_PRESENT, _SWAPPED, _ZEROS = 1 << 3, 1 << 4, 1 << 5
_REGIONS = 4096
_ENTRIES = 1 << 16  # pagemap entries read at once

_USED = bytes(1 if value & 0xC0 else 0 for value in range(256))


class _Region(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("categories", ctypes.c_uint64),
    )


class _ScanArg(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages"),
            *("category_inverted", "category_mask", "category_anyof_mask", "return_mask"),
        )
    )


_ioctl = ctypes.CDLL(None, use_errno=True).ioctl
_ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]


def touched(pid: int, ranges: Ranges) -> Ranges:
    """Cut ``ranges`` down to the pages of a process that hold something.

    :param ranges: (address, size), in whole pages, lowest first.
    """
    try:
        pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    except OSError:
        return list(ranges)
    try:
        try:
            return list(_scanned(pagemap, ranges))
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EINVAL):
                raise
        return [found for row in ranges for found in _looked_up(pagemap, *row)]
    except OSError:
        return list(ranges)
    finally:
        os.close(pagemap)


def _scanned(pagemap: int, ranges: Ranges) -> Iterator[tuple[int, int]]:
    found = (_Region * _REGIONS)()
    arg = _ScanArg(
        size=ctypes.sizeof(_ScanArg),
        vec=ctypes.addressof(found),
        vec_len=_REGIONS,
        category_inverted=_ZEROS,
        category_mask=_ZEROS,
        category_anyof_mask=_PRESENT | _SWAPPED,
        return_mask=_ZEROS,
    )
    for start, size in ranges:
        at, end = start, start + size
        while at < end:
            arg.start, arg.end = at, end
            count = _ioctl(pagemap, _PAGEMAP_SCAN, ctypes.byref(arg))
            if count < 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            for row in found[:count]:
                yield row.start, row.end - row.start
            # Where the vector was too short the walk's end may lie before what was found last.
            at = max(arg.walk_end, found[count - 1].end if count else 0, at + PAGE)


def _looked_up(pagemap: int, start: int, size: int) -> Iterator[tuple[int, int]]:
    pages = size // PAGE
    for first in range(0, pages, _ENTRIES):
        count = min(_ENTRIES, pages - first)
        raw = os.pread(pagemap, count * 8, (start // PAGE + first) * 8)
        base = start + first * PAGE
        if len(raw) < count * 8:
            yield base, count * PAGE
            continue
        # The top byte of each entry tells; a run of set ones is one range.
        used = raw[7::8].translate(_USED)
        at = used.find(1)
        while at >= 0:
            end = used.find(0, at)
            end = count if end < 0 else end
            yield base + at * PAGE, (end - at) * PAGE
            at = used.find(1, end)
