"""Reading another process's memory
--------------------------------

Many ranges by as few calls of ``process_vm_readv`` as the kernel's limit on vectors
allows, into memory that was touched before.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
from collections.abc import Iterator, Sequence

from .denied import denied, ended
from .image import PAGE, Ranges

__all__ = ["BatchReader", "Buffer", "Buffers", "merged"]

_IOV_MAX = 1024
# Pages of a range that are passed over; one with more holes is given up.
_HOLES_MAX = 64
# What a buffer has in reserve, so that it serves for the next reading as well.
_SLACK, _SPARE, _MUCH_LARGER = 8, 1 << 20, 4


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_readv.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
]
_libc.process_vm_readv.restype = ctypes.c_ssize_t


def merged(pages: Sequence[int], between: int = 0) -> Ranges:
    """Join pages into (address, size) ranges.

    :param pages: page numbers, lowest first.
    :param between: pages that are none of them and may join two ranges.
    """
    out: Ranges = []
    if not pages:
        return out
    first = last = pages[0]
    for page in pages[1:]:
        if page > last + 1 + between:
            out.append((first * PAGE, (last + 1 - first) * PAGE))
            first = page
        last = page
    out.append((first * PAGE, (last + 1 - first) * PAGE))
    return out


class Buffer:
    """Memory of this process whose pages are all there already."""

    def __init__(self, size: int) -> None:
        size = max(size, PAGE)
        self.memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE)
        # Large pages are there in a fourth of the time; a kernel may have none.
        with contextlib.suppress(OSError):
            self.memory.madvise(mmap.MADV_HUGEPAGE)
        self.memory[::PAGE] = bytes(-(-size // PAGE))
        self.size = size
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    @property
    def unused(self) -> bool:
        """Whether nobody has anything of it any more."""
        try:
            # A mapping of which there are views cannot be resized.
            self.memory.resize(self.size)
        except BufferError:
            return False
        return True


class Buffers:
    """Buffers that are used again, for to touch fresh memory takes as long as to fill it."""

    def __init__(self) -> None:
        self._all: list[Buffer] = []

    def take(self, size: int) -> Buffer:
        """Return a buffer of a size in bytes, or a larger one, of which nobody has anything."""
        unused = [buffer for buffer in self._all if buffer.unused]
        for buffer in unused:
            if size <= buffer.size <= _MUCH_LARGER * size + _SPARE:
                return buffer
        self._all = [buffer for buffer in self._all if buffer not in unused]
        self._all.append(Buffer(size + size // _SLACK + _SPARE))
        return self._all[-1]


class BatchReader:
    """Copies ranges into a buffer.

    :param buffer: as large as all ranges together, at least.
    """

    def __init__(self, pid: int, ranges: Ranges, buffer: Buffer) -> None:
        self._pid = pid
        self._where = buffer.address
        self._jobs: list[tuple[int, int, int]] = []
        at = 0
        for start, size in ranges:
            self._jobs.append((start, at, size))
            at += size
        self._batches = []
        for i in range(0, len(self._jobs), _IOV_MAX):
            jobs = self._jobs[i : i + _IOV_MAX]
            vector = (_Iovec * len(jobs))(*(_Iovec(start, size) for start, _, size in jobs))
            self._batches.append((jobs, vector, sum(size for _, _, size in jobs)))
        self.calls = 0

    def run(self) -> list[tuple[int, int, int]]:
        """Read everything; return (address, offset in the buffer, size) of what is there.

        :raises TargetError: the process has ended, or may not be read.
        """
        done: list[tuple[int, int, int]] = []
        for jobs, remote, total in self._batches:
            got = self._read(jobs, remote, 0, total)
            if got == total:
                done += jobs
            else:
                self._piecewise(jobs, remote, got, done)
        return done

    def _piecewise(
        self,
        jobs: list[tuple[int, int, int]],
        remote: ctypes.Array[_Iovec],
        got: int,
        done: list[tuple[int, int, int]],
    ) -> None:
        first = 0
        while True:
            # A vector that hits a hole ends there: keep what came, pass over the hole.
            while first < len(jobs) and got >= jobs[first][2]:
                done.append(jobs[first])
                got -= jobs[first][2]
                first += 1
            if first < len(jobs):
                done += self._around(jobs[first], max(got, 0) // PAGE * PAGE)
                first += 1
            if first >= len(jobs):
                return
            got = self._read(jobs, remote, first, sum(size for _, _, size in jobs[first:]))

    def _around(self, job: tuple[int, int, int], got: int) -> Iterator[tuple[int, int, int]]:
        """Yield what is there of a range that has a hole, its first ``got`` bytes included."""
        start, at, size = job
        done, holes = 0, 0
        while True:
            if got >= PAGE:
                yield start + done, at + done, got
            done += got + PAGE
            holes += 1
            if done >= size or holes > _HOLES_MAX:
                return
            rest = (start + done, at + done, size - done)
            got = self._read([rest], (_Iovec * 1)(_Iovec(rest[0], rest[2])), 0, rest[2])
            got = got // PAGE * PAGE

    def _read(
        self,
        jobs: list[tuple[int, int, int]],
        remote: ctypes.Array[_Iovec],
        first: int,
        total: int,
    ) -> int:
        local = _Iovec(self._where + jobs[first][1], total)
        self.calls += 1
        got = int(
            _libc.process_vm_readv(
                self._pid,
                ctypes.byref(local),
                1,
                ctypes.byref(remote, first * ctypes.sizeof(_Iovec)),
                len(jobs) - first,
                0,
            )
        )
        if got < 0:
            code = ctypes.get_errno()
            if code == errno.ESRCH:
                raise ended(self._pid)
            if code == errno.EPERM:
                raise denied(self._pid)
            return 0
        return got
