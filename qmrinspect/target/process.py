"""A running process
-----------------

Reads a live QEMU without GDB.  Its threads are seized and interrupted
(``PTRACE_SEIZE``, ``PTRACE_INTERRUPT``), the memory is copied by
``process_vm_readv``, and the threads run on.  The kernel detaches a tracer
that dies, and a seized thread is not stopped by that, so that even a
``kill -9`` in the middle leaves the VM running.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import time
from pathlib import Path

from ..errors import NotStopping, TargetError
from .elf import ElfFile
from .image import Capture, Image, Mapping

__all__ = ["Process", "map_file", "parse_maps", "present_ranges"]

_PTRACE_DETACH = 17
_PTRACE_SEIZE = 0x4206
_PTRACE_INTERRUPT = 0x4207
_PTRACE_EVENT_STOP = 128
_WALL = 0x40000000
_IOV_MAX = 1024
# A thread in uninterruptible sleep cannot be stopped; give the VM back rather than wait.
_STOP_DEADLINE_S = 0.25
_PAGE = 4096
_MAP_POPULATE = 0x8000  # the mmap module has it since Python 3.10


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long
_libc.process_vm_readv.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
]
_libc.process_vm_readv.restype = ctypes.c_ssize_t


def parse_maps(text: str) -> list[Mapping]:
    """Parse ``/proc/PID/maps``."""
    out = []
    for line in text.splitlines():
        fields = line.split(None, 5)
        if len(fields) < 5:
            continue
        start, end = (int(part, 16) for part in fields[0].split("-"))
        path = fields[5] if len(fields) > 5 else ""
        out.append(Mapping(start, end, fields[1], int(fields[2], 16), path))
    return out


def map_file(path: str | Path) -> bytes | mmap.mmap:
    """Map a file read-only."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def present_ranges(pid: int, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Cut ``ranges`` down to the pages that the process has ever touched.

    Rests on ``/proc/PID/pagemap`` (bit 63 present, bit 62 swapped).  Where it
    cannot be read the ranges come back whole.
    """
    out: list[tuple[int, int]] = []
    try:
        pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    except OSError:
        return ranges
    try:
        for start, size in ranges:
            count = size // _PAGE
            raw = os.pread(pagemap, count * 8, start // _PAGE * 8)
            if len(raw) < count * 8:
                out.append((start, size))
                continue
            # The top byte of each entry tells; a run of set ones is one range.
            used = raw[7::8].translate(_PRESENT)
            at = used.find(1)
            while at >= 0:
                end = used.find(0, at)
                end = count if end < 0 else end
                out.append((start + at * _PAGE, (end - at) * _PAGE))
                at = used.find(1, end)
    except OSError:
        return ranges
    finally:
        os.close(pagemap)
    return out


_PRESENT = bytes(1 if value & 0xC0 else 0 for value in range(256))


class Process:
    """A live process as a target.

    :param pid: its process id.
    :raises TargetError: when there is no such process or it may not be read.
    """

    kind = "process"

    def __init__(self, pid: int) -> None:
        self.pid = pid
        proc = Path("/proc") / str(pid)
        try:
            self.argv = [
                os.fsdecode(part) for part in (proc / "cmdline").read_bytes().split(b"\0")[:-1]
            ]
        except (FileNotFoundError, ProcessLookupError):
            raise TargetError(
                f"there is no process {pid}", "qmr ps lists the QEMUs that run here"
            ) from None
        try:
            self.exe = os.readlink(proc / "exe")
            # Through /proc, so that an upgraded or containered program is read as it runs.
            self._elf = ElfFile(memoryview(map_file(proc / "exe")), self.exe)
            self._mem = os.open(proc / "mem", os.O_RDONLY)
        except PermissionError:
            raise _denied(pid) from None
        except (FileNotFoundError, ProcessLookupError):
            raise TargetError(
                f"process {pid} has no program to read", "it is a kernel thread or has ended"
            ) from None
        # Link-time addresses of a position-independent program start at zero.
        self._base = self._find_base()

    def _find_base(self) -> int:
        inode = os.stat(f"/proc/{self.pid}/exe")
        for mapping, (device, number) in self._identified():
            if mapping.offset == 0 and (device, number) == (inode.st_dev, inode.st_ino):
                return mapping.start - self._elf.load_base()
        for mapping in self.mappings():
            if mapping.offset == 0 and mapping.path in (self.exe, self.exe + " (deleted)"):
                return mapping.start - self._elf.load_base()
        raise TargetError(f"process {self.pid} does not map its own program {self.exe}")

    def _identified(self) -> list[tuple[Mapping, tuple[int, int]]]:
        out = []
        for line in self._read_maps().splitlines():
            mapping = parse_maps(line)[0]
            fields = line.split(None, 5)
            major, minor = (int(part, 16) for part in fields[3].split(":"))
            out.append((mapping, (os.makedev(major, minor), int(fields[4]))))
        return out

    def _read_maps(self) -> str:
        try:
            return Path(f"/proc/{self.pid}/maps").read_text(errors="replace")
        except PermissionError:
            raise _denied(self.pid) from None
        except (FileNotFoundError, ProcessLookupError):
            raise _ended(self.pid) from None

    def elf(self) -> ElfFile:
        """Return the ELF file that the process runs."""
        return self._elf

    def base(self) -> int:
        """Return the load address of the program."""
        return self._base

    def program(self) -> str:
        """Return a path under which the program's file can be opened."""
        return f"/proc/{self.pid}/exe"

    def mappings(self) -> list[Mapping]:
        """Return the mappings, lowest first."""
        return parse_maps(self._read_maps())

    def peek(self, address: int, size: int) -> bytes | None:
        """Read without a stop; None where nothing is mapped."""
        try:
            data = os.pread(self._mem, size, address)
        except (OSError, OverflowError):
            return None
        return data if len(data) == size else None

    def capture(self, ranges: list[tuple[int, int]]) -> tuple[Image, Capture]:
        """Stop all threads, copy ``ranges``, let them run on.

        :raises TargetError: when the process may not be stopped, or has ended.
        :raises NotStopping: when it does not stop; it runs on.
        """
        begin = time.perf_counter_ns()
        ranges = present_ranges(self.pid, ranges)
        total = sum(size for _, size in ranges)
        # Pages of the buffer are touched beforehand, not while the VM waits.
        buffer = mmap.mmap(-1, max(total, _PAGE), flags=mmap.MAP_PRIVATE | _MAP_POPULATE)
        reader = _BatchReader(self.pid, ranges, buffer)
        stopped = _Stopped(self.pid)
        try:
            stopped.stop()
            done = reader.run()
        finally:
            stop_us = stopped.resume()
        view = memoryview(buffer).toreadonly()
        image = Image([(start, view[at : at + size]) for start, at, size in done], static=self.peek)
        wall_us = (time.perf_counter_ns() - begin) // 1000
        return image, Capture(stop_us, wall_us, reader.calls, image.size, 0, True)

    def close(self) -> None:
        """Close what is open in ``/proc``."""
        os.close(self._mem)


class _BatchReader:
    """Copies ranges by as few system calls as the kernel's limit on vectors allows."""

    def __init__(self, pid: int, ranges: list[tuple[int, int]], buffer: mmap.mmap) -> None:
        self._pid = pid
        self._jobs: list[tuple[int, int, int]] = []
        at = 0
        for start, size in ranges:
            self._jobs.append((start, at, size))
            at += size
        self._where = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        self._batches = [
            (self._jobs[i : i + _IOV_MAX], self._vector(self._jobs[i : i + _IOV_MAX]))
            for i in range(0, len(self._jobs), _IOV_MAX)
        ]
        self.calls = 0

    @staticmethod
    def _vector(jobs: list[tuple[int, int, int]]) -> ctypes.Array[_Iovec]:
        return (_Iovec * len(jobs))(*(_Iovec(start, size) for start, _, size in jobs))

    def run(self) -> list[tuple[int, int, int]]:
        done: list[tuple[int, int, int]] = []
        for jobs, remote in self._batches:
            first = 0
            while first < len(jobs):
                got = self._read(jobs, remote, first)
                # A vector that hits a hole ends there: keep what came, pass over the hole.
                while first < len(jobs) and got >= jobs[first][2]:
                    done.append(jobs[first])
                    got -= jobs[first][2]
                    first += 1
                if first < len(jobs):
                    start, at, _ = jobs[first]
                    if got >= _PAGE:
                        done.append((start, at, got // _PAGE * _PAGE))
                    first += 1
        return done

    def _read(
        self, jobs: list[tuple[int, int, int]], remote: ctypes.Array[_Iovec], first: int
    ) -> int:
        local = _Iovec(self._where + jobs[first][1], sum(size for _, _, size in jobs[first:]))
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
                raise _ended(self._pid)
            if code == errno.EPERM:
                raise _denied(self._pid)
            return 0
        return got


class _Stopped:
    """All threads of a process, stopped for as long as a reading takes."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seized: list[int] = []
        self._halted: dict[int, int] = {}  # thread id to the signal it must still get
        self._lost: list[int] = []  # threads that ended while they were ours
        self._ours = _parent(pid) == os.getpid()
        self._begin = 0

    def stop(self) -> None:
        deadline = time.monotonic() + _STOP_DEADLINE_S
        self._seize_new()
        self._begin = time.perf_counter_ns()
        while True:
            for tid in self._seized:
                if tid not in self._halted:
                    self._interrupt(tid)
            self._wait(deadline)
            # A thread may have been born while the others were being stopped.
            if not self._seize_new():
                return

    def _threads(self) -> list[int]:
        try:
            return [int(name) for name in os.listdir(f"/proc/{self._pid}/task")]
        except (FileNotFoundError, ProcessLookupError):
            raise _ended(self._pid) from None

    def _seize_new(self) -> bool:
        fresh = False
        for tid in self._threads():
            if tid in self._seized:
                continue
            if _libc.ptrace(_PTRACE_SEIZE, tid, None, None) == 0:
                self._seized.append(tid)
                fresh = True
                continue
            code = ctypes.get_errno()
            if code == errno.ESRCH:
                continue  # it ended meanwhile
            raise _denied(self._pid)
        return fresh

    def _interrupt(self, tid: int) -> None:
        if _libc.ptrace(_PTRACE_INTERRUPT, tid, None, None) != 0:
            self._halted[tid] = 0  # it ended; there is no stop to wait for

    def _wait(self, deadline: float) -> None:
        for tid in self._seized:
            spins = 0
            while tid not in self._halted:
                try:
                    status = self._status(tid)
                except ChildProcessError:
                    self._halted[tid] = 0
                    break
                if status is not None:
                    self._note(tid, status)
                    break
                spins += 1
                if spins > 50:
                    time.sleep(0.0002)
                if time.monotonic() > deadline:
                    raise NotStopping(
                        f"thread {tid} of process {self._pid} does not stop",
                        "it waits in the kernel (a disk, a network file system); try again",
                    )

    def _note(self, tid: int, status: int) -> None:
        if not os.WIFSTOPPED(status):
            self._halted[tid] = 0
            return
        # A stop by a signal of its own: the thread gets that signal when it runs on.
        event = status >> 16
        self._halted[tid] = 0 if event == _PTRACE_EVENT_STOP else os.WSTOPSIG(status)

    def resume(self) -> int:
        """Let all threads go; return how long they stood, in microseconds."""
        for tid in self._halted:
            self._detach(tid)
        stop_us = (time.perf_counter_ns() - self._begin) // 1000 if self._begin else 0
        # Detaching needs a stopped thread; one that was asked to stop and did not yet
        # gets its chance.  What still hangs in the kernel is let go when qmr ends.
        deadline = time.monotonic() + _STOP_DEADLINE_S
        for tid in [t for t in self._seized if t not in self._halted]:
            _libc.ptrace(_PTRACE_INTERRUPT, tid, None, None)
            while tid not in self._halted and time.monotonic() < deadline:
                try:
                    status = self._status(tid)
                except ChildProcessError:
                    break
                if status is not None:
                    self._note(tid, status)
                    self._detach(tid)
                else:
                    time.sleep(0.001)
        # The first thread ends when all others have.
        for tid in sorted(self._lost, key=lambda tid: tid == self._pid):
            self._bury(tid, deadline)
        return stop_us

    def _detach(self, tid: int) -> None:
        if _libc.ptrace(_PTRACE_DETACH, tid, None, self._halted[tid] or None) != 0:
            self._lost.append(tid)

    def _bury(self, tid: int, deadline: float) -> None:
        """Take note that a thread has ended: until its tracer has, nobody can of its process."""
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < deadline:
                status = self._status(tid)
                if status is not None and not os.WIFSTOPPED(status):
                    return
                time.sleep(0.001)

    def _status(self, tid: int) -> int | None:
        """Return what has become of a thread, None while there is no news.

        :raises ChildProcessError: it is none of ours any more; or it is our child that has
            ended, whose exit status belongs to whoever started it.
        """
        if tid == self._pid and self._ours:
            peek = os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL
            if os.waitid(os.P_PID, tid, peek) is not None:
                raise ChildProcessError
        got, status = os.waitpid(tid, os.WNOHANG | _WALL)
        return status if got == tid else None


def _parent(pid: int) -> int:
    """Return the parent of a process, 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _ended(pid: int) -> TargetError:
    return TargetError(f"process {pid} has ended", "qmr ps lists the QEMUs that run here")


def _denied(pid: int) -> TargetError:
    """Say why ``pid`` may not be read, and what would help."""
    status: dict[str, str] = {}
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            status[key] = value.strip()
    except OSError:
        return _ended(pid)
    text = f"process {pid} may not be read"
    tracer = int(status.get("TracerPid", "0") or 0)
    if tracer:
        try:
            name = Path(f"/proc/{tracer}/comm").read_text().strip()
        except OSError:
            name = "another program"
        return TargetError(
            f"{text}: {name} (pid {tracer}) is debugging it",
            "detach it there, or use qmr inside that GDB",
        )
    owner = int(status.get("Uid", "0").split()[0])
    if owner != os.geteuid() and os.geteuid() != 0:
        return TargetError(f"{text}: it belongs to uid {owner}", "run qmr as that user or as root")
    try:
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except (OSError, ValueError):
        scope = 0
    if scope == 3:
        return TargetError(f"{text}: kernel.yama.ptrace_scope is 3", "it needs a reboot to change")
    if scope and os.geteuid() != 0:
        return TargetError(
            f"{text}: kernel.yama.ptrace_scope is {scope}",
            "run qmr as root, or: sysctl kernel.yama.ptrace_scope=0",
        )
    if len(status.get("NSpid", "").split()) > 1 or os.geteuid() == 0:
        return TargetError(
            f"{text}: it is in a container, or this one lacks CAP_SYS_PTRACE",
            "run qmr on the host, or start the container with --cap-add=SYS_PTRACE",
        )
    return TargetError(f"{text}: it is not dumpable", "run qmr as root")
