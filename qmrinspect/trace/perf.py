"""The kernel's events
-------------------

perf_event_open(2) without a library: breakpoints on every thread of a process, those that
are born later included, and the rings that their samples come in.  The kernel takes a
breakpoint away when its descriptor is closed, so that nothing stays when qmr is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import TargetError
from ..stacks.arch import Arch
from ..target import proc
from .refusal import refused
from .ring import RING_MIN, Ring, RingTooLarge, processors, ring_size

__all__ = ["STACK", "Probe", "Sample", "Tracer"]

#: Bytes of stack that come with a sample: 8 KB hold the deepest stack of a plug, 4 KB do not.
STACK = 8192

_FILES_SPARE = 64

_libc = ctypes.CDLL(None, use_errno=True)

_TYPE_BREAKPOINT = 5
_SAMPLE_IP, _SAMPLE_TID, _SAMPLE_TIME, _SAMPLE_ID = 1, 2, 4, 64
_SAMPLE_REGS_USER, _SAMPLE_STACK_USER = 1 << 12, 1 << 13
_SAMPLE = (
    _SAMPLE_IP | _SAMPLE_TID | _SAMPLE_TIME | _SAMPLE_ID | _SAMPLE_REGS_USER | _SAMPLE_STACK_USER
)
_FORMAT_LOST = 1 << 4
_INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HV, _WATERMARK = 1 << 1, 1 << 5, 1 << 6, 1 << 14
_USE_CLOCKID, _INHERIT_THREAD = 1 << 25, 1 << 35
_FLAG_FD_CLOEXEC = 8
_IOC_SET_OUTPUT, _IOC_ID = 0x2405, 0x80082407
_RECORD_LOST, _RECORD_THROTTLE, _RECORD_SAMPLE = 2, 5, 9

_HEADER = struct.Struct("<IHH")
_FIXED = struct.Struct("<QIIQQQ")  # ip, pid and tid, time, id, abi of the registers
_WORD = struct.Struct("<Q")
_PAIR = struct.Struct("<QQ")

_BREAK_WRITE, _BREAK_EXECUTE = 2, 4


class _Attr(ctypes.Structure):
    # struct perf_event_attr, include/uapi/linux/perf_event.h
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
        ("config2", ctypes.c_uint64),
        ("branch_sample_type", ctypes.c_uint64),
        ("sample_regs_user", ctypes.c_uint64),
        ("sample_stack_user", ctypes.c_uint32),
        ("clockid", ctypes.c_int32),
        ("sample_regs_intr", ctypes.c_uint64),
        ("aux_watermark", ctypes.c_uint32),
        ("sample_max_stack", ctypes.c_uint16),
        ("reserved", ctypes.c_uint16),
    )


class Probe(NamedTuple):
    """A place to watch.

    :param address: in the process.
    :param write: whether what is written there is watched, not what is executed.
    :param file: for a probe that the kernel puts into the code (uprobe), which takes root: the
        program's file, and ``offset`` the place in it.
    """

    address: int
    write: bool = False
    file: str | None = None
    offset: int | None = None


class Sample(NamedTuple):
    """One event, as the kernel wrote it.

    :param time: CLOCK_MONOTONIC, nanoseconds.
    :param probe: the index of the :class:`Probe`.
    :param registers: in the order of the processor's ``sampled``.
    :param stack: from the stack pointer up.
    """

    time: int
    tid: int
    probe: int
    ip: int
    registers: tuple[int, ...]
    stack: bytes


class Tracer:
    """Watches the threads of a process from now on, until it is closed.

    :param pid: the process.
    :param arch: its processor.
    :param probes: what to watch; there are four breakpoints on x86-64.
    :raises TargetError: the kernel refuses; the text says which setting or right would help.
    """

    def __init__(self, pid: int, arch: Arch, probes: Sequence[Probe]) -> None:
        self._pid = pid
        self._arch = arch
        self._probes = tuple(probes)
        self._regs = struct.Struct(f"<{len(arch.sampled)}Q")
        self._fds: dict[int, tuple[int, int]] = {}  # descriptor to probe and thread
        self._ids: dict[int, tuple[int, int]] = {}
        self._rings: list[Ring] = []
        self._inherits: set[int] = set()  # threads that are seen through their maker's events
        self._reported_lost = 0
        self._counts_lost = True
        self._flags = _INHERIT | _INHERIT_THREAD | _USE_CLOCKID
        self._ring = ring_size(len(processors()))
        while True:
            try:
                self._open_threads()
                return
            except RingTooLarge:
                # What the kernel lets a user lock is for the rings of all processors.
                self.close()
                self._ring //= 2
            except BaseException:
                self.close()
                raise

    # Opening -------------------------------------------------------------------------

    def _open_threads(self) -> None:
        """Open the events of every thread; one that is made meanwhile inherits them or is next."""
        cpus = processors()
        seen: set[int] = set()
        self._ids.clear()
        while True:
            fresh = [tid for tid in proc.threads(self._pid) if tid not in seen]
            if not fresh:
                break
            _raise_file_limit(len(self._fds) + len(fresh) * len(cpus) * len(self._probes))
            for tid in fresh:
                seen.add(tid)
                self._open_thread(tid, cpus)
        if not self._fds:
            raise TargetError(f"process {self._pid} has ended", "qmr ps lists the QEMUs that run")

    def _open_thread(self, tid: int, cpus: Sequence[int]) -> None:
        for number, probe in enumerate(self._probes):
            for place, cpu in enumerate(cpus):
                try:
                    fd = self._open(probe, tid, cpu)
                except ProcessLookupError:
                    return  # the thread has ended meanwhile
                self._fds[fd] = number, tid
                self._ids[_identity(fd)] = number, tid
                if place < len(self._rings):
                    _ioctl(fd, _IOC_SET_OUTPUT, self._rings[place].fd)
                else:
                    self._rings.append(self._map(fd))

    def _open(self, probe: Probe, tid: int, cpu: int) -> int:
        attr = _Attr(
            size=ctypes.sizeof(_Attr),
            sample_period=1,
            sample_type=_SAMPLE,
            sample_regs_user=self._arch.mask(),
            sample_stack_user=STACK,
            clockid=time.CLOCK_MONOTONIC,
        )
        attr.wakeup = RING_MIN // 2
        place = ctypes.create_string_buffer(os.fsencode(probe.file or ""))
        if probe.file is not None:
            attr.type, attr.config1 = _uprobe_type(), ctypes.addressof(place)
            attr.config2 = probe.offset
        else:
            attr.type = _TYPE_BREAKPOINT
            attr.bp_type = _BREAK_WRITE if probe.write else _BREAK_EXECUTE
            attr.config1 = probe.address
            attr.config2 = 4 if probe.write else self._arch.execute_len
        while True:
            attr.read_format = _FORMAT_LOST if self._counts_lost else 0
            attr.flags = self._flags | _WATERMARK
            if probe.file:
                # A thread that inherits one dies: the kernel looks for the file's name in the
                # memory of the process at clone(2).
                attr.flags &= ~(_INHERIT | _INHERIT_THREAD)
            else:
                attr.flags |= _EXCLUDE_KERNEL | _EXCLUDE_HV
            fd = int(
                _libc.syscall(
                    self._arch.syscall, ctypes.byref(attr), tid, cpu, -1, _FLAG_FD_CLOEXEC
                )
            )
            if fd >= 0:
                return fd
            code = ctypes.get_errno()
            if code == errno.ESRCH:
                raise ProcessLookupError
            # Older kernels lack the one (5.13) or the other (6.0).
            if code == errno.EINVAL and self._flags & _INHERIT_THREAD:
                self._flags &= ~_INHERIT_THREAD
            elif code == errno.EINVAL and self._counts_lost:
                self._counts_lost = False
            else:
                raise refused(self._pid, code)

    def _map(self, fd: int) -> Ring:
        try:
            return Ring(fd, self._ring)
        except OSError as error:
            code = error.errno
            assert code is not None  # mmap(2) says why
            if code in (errno.EPERM, errno.ENOMEM) and self._ring > RING_MIN:
                raise RingTooLarge from None
            raise refused(self._pid, code) from None

    def follow(self) -> None:
        """Watch threads that were made since, where they do not inherit the events."""
        if any(probe.file for probe in self._probes):
            known = {tid for _, tid in self._fds.values()}
            for tid in set(proc.threads(self._pid)) - known:
                self._open_thread(tid, processors())

    # Reading -------------------------------------------------------------------------

    @property
    def descriptors(self) -> list[int]:
        """What poll(2) is to wait for."""
        return [ring.fd for ring in self._rings]

    def drain(self) -> list[bytes]:
        """Take what is in the rings, unread; quick, so that they do not run over."""
        return [data for ring in self._rings if (data := ring.drain())]

    def samples(self, data: bytes) -> Iterator[Sample]:
        """Read what was drained; what other processes of the program did is left out."""
        at, end = 0, len(data)
        while at + _HEADER.size <= end:
            kind, _, size = _HEADER.unpack_from(data, at)
            if kind == _RECORD_SAMPLE:
                sample = self._sample(data, at + _HEADER.size)
                if sample is not None:
                    yield sample
            elif kind == _RECORD_LOST:
                self._reported_lost += _PAIR.unpack_from(data, at + _HEADER.size)[1]
            elif kind == _RECORD_THROTTLE:
                self._reported_lost += 1
            if size < _HEADER.size:
                return
            at += size

    def _sample(self, data: bytes, at: int) -> Sample | None:
        ip, pid, tid, when, identity, abi = _FIXED.unpack_from(data, at)
        source = self._ids.get(identity)
        if pid != self._pid or source is None or not abi:
            return None
        probe, owner = source
        if owner != tid:
            self._inherits.add(tid)
        elif tid in self._inherits:
            return None  # it inherited the same event from the thread that made it
        at += _FIXED.size
        registers = self._regs.unpack_from(data, at)
        at += self._regs.size
        room = _WORD.unpack_from(data, at)[0]
        at += _WORD.size
        used = _WORD.unpack_from(data, at + room)[0] if room else 0
        return Sample(when, tid, probe, ip, registers, data[at : at + min(used, room)])

    def lost(self) -> int:
        """Return how many events were lost until now.

        A ring that is full says so only with its next event, so that the kernel's own count
        is asked for as well (``PERF_FORMAT_LOST``, Linux 6.0).
        """
        counted = 0
        if self._counts_lost:
            for fd in self._fds:
                with contextlib.suppress(OSError):
                    counted += _PAIR.unpack(os.read(fd, _PAIR.size))[1]
        return max(counted, self._reported_lost)

    @property
    def counts_lost(self) -> bool:
        """Whether every lost event is counted; else those at the end may not be."""
        return self._counts_lost

    def close(self) -> None:
        """Take the breakpoints away."""
        for ring in self._rings:
            ring.close()
        for fd in self._fds:
            os.close(fd)
        self._rings, self._fds = [], {}


def _uprobe_type() -> int:
    try:
        return int(Path("/sys/bus/event_source/devices/uprobe/type").read_text())
    except (OSError, ValueError):
        raise TargetError("this kernel has no uprobes for perf_event_open") from None


def _raise_file_limit(wanted: int) -> None:
    """Let this process have as many files as the events take.

    :raises TargetError: it may not.
    """
    wanted += _FILES_SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise TargetError(
            f"tracing takes {wanted} open files, one for each thread, processor and breakpoint, "
            f"and {hard} are allowed",
            "raise the limit: ulimit -Hn, or LimitNOFILE= of the service",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _identity(fd: int) -> int:
    out = ctypes.c_uint64()
    _ioctl(fd, _IOC_ID, ctypes.addressof(out))
    return out.value


def _ioctl(fd: int, request: int, argument: int) -> None:
    if _libc.ioctl(fd, ctypes.c_ulong(request), ctypes.c_ulong(argument)) < 0:
        code = ctypes.get_errno()
        raise TargetError(f"the kernel refused a trace event ({os.strerror(code)})")
