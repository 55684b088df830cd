"""Stopping threads
----------------

All threads of a process are seized and interrupted (``PTRACE_SEIZE``,
``PTRACE_INTERRUPT``) and released again.  The kernel detaches a tracer that dies, and a
seized thread is not stopped by that, so that even a ``kill -9`` in the middle leaves the
process running.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator

from ..errors import NotStopping
from .denied import denied, ended
from .proc import stat, threads, tracer

__all__ = ["Stopped", "undisturbed", "while_stopped"]

_PTRACE_GETREGS = 12
_PTRACE_DETACH = 17
_PTRACE_SEIZE = 0x4206
_PTRACE_INTERRUPT = 0x4207
_PTRACE_EVENT_STOP = 128
_WALL = 0x40000000
# Of struct user_regs_struct (<sys/user.h>) on x86-64.
_REGISTERS, _RSP = 27, 19
# A thread in uninterruptible sleep cannot be stopped; give the VM back rather than wait.
_STOP_DEADLINE_S = 0.25
# Threads stop within some microseconds.  Whoever waits must sleep: a real-time thread that
# spins keeps the one that it waits for off its CPU.
_NAP_S, _NAP_MAX_S = 20e-6, 1e-3
_PRIORITY = 10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the calling thread on its CPU, where that is allowed, and Python from collecting."""
    collecting = gc.isenabled()
    gc.disable()
    before = None
    with contextlib.suppress(OSError):
        policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
        if policy not in (os.SCHED_FIFO, os.SCHED_RR):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
            before = policy, priority
    try:
        yield
    finally:
        if before is not None:
            os.sched_setscheduler(0, *before)
        if collecting:
            gc.enable()


def while_stopped(pid: int, work: Callable[[Stopped], None]) -> int:
    """Stop all threads of a process, do ``work``, and let them run on.

    That is done by a thread of its own: the kernel lets go what its tracer has when that ends,
    and so a thread that did not stop in time does not stop later, with nobody there to let it go.

    :return: how long they stood, in microseconds.
    :raises TargetError: as :meth:`Stopped.stop` does, and what ``work`` raises.
    """
    took: list[int] = []
    failed: list[BaseException] = []

    def run() -> None:
        stopped = Stopped(pid)
        try:
            with undisturbed():
                try:
                    stopped.stop()
                    work(stopped)
                finally:
                    took.append(stopped.resume())
        except BaseException as error:
            failed.append(error)

    tracing = threading.Thread(target=run, name="qmr-stop", daemon=True)
    tracing.start()
    try:
        tracing.join()
    except BaseException:
        # Ctrl-C: whoever goes on finds no thread standing.
        tracing.join()
        raise
    if failed:
        raise failed[0]
    return took[0]


class Stopped:
    """All threads of a process, stopped for as long as a reading takes.

    Everything here has to be called by one and the same thread, the tracer.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seized: list[int] = []
        self._halted: dict[int, int] = {}  # thread id to the signal it must still get
        self._lost: list[int] = []  # threads that ended while they were ours
        self._ours = _parent(pid) == os.getpid()
        self._begin = 0

    def stop(self) -> None:
        """Stop all threads.

        :raises TargetError: the process may not be stopped, or has ended.
        :raises NotStopping: one of them did not stop in time.

        :meth:`resume` has to be called in any case.
        """
        deadline = time.monotonic() + _STOP_DEADLINE_S
        self._seize_new(deadline)
        self._begin = time.perf_counter_ns()
        while True:
            for tid in self._seized:
                if tid not in self._halted:
                    self._interrupt(tid)
            self._wait(deadline)
            # A thread may have been born while the others were being stopped.
            if not self._seize_new(deadline):
                return

    def stacks(self) -> list[int] | None:
        """Return the stack pointer of each thread that stands, None on a machine unknown here."""
        if os.uname().machine != "x86_64":
            return None
        out = []
        registers = (ctypes.c_uint64 * _REGISTERS)()
        for tid in self._halted:
            if _libc.ptrace(_PTRACE_GETREGS, tid, None, ctypes.addressof(registers)) == 0:
                out.append(registers[_RSP])
        return out

    def _threads(self) -> list[int]:
        found = threads(self._pid)
        if not found:
            raise ended(self._pid)
        return found

    def _seize_new(self, deadline: float) -> bool:
        fresh = False
        for tid in self._threads():
            if tid not in self._seized and self._seize(tid, deadline):
                self._seized.append(tid)
                fresh = True
        return fresh

    def _seize(self, tid: int, deadline: float) -> bool:
        while _libc.ptrace(_PTRACE_SEIZE, tid, None, None) != 0:
            if ctypes.get_errno() == errno.ESRCH:
                return False  # it ended meanwhile
            # The tracer of the stop before may still be ending.
            if tracer(tid) not in threads(os.getpid()) or time.monotonic() > deadline:
                raise denied(self._pid)
            time.sleep(_NAP_MAX_S)
        return True

    def _interrupt(self, tid: int) -> None:
        if _libc.ptrace(_PTRACE_INTERRUPT, tid, None, None) != 0:
            self._halted[tid] = 0  # it ended; there is no stop to wait for

    def _wait(self, deadline: float) -> None:
        nap = _NAP_S
        while True:
            pending = [tid for tid in self._seized if tid not in self._halted]
            if not pending:
                return
            for tid in pending:
                try:
                    status = self._status(tid)
                except ChildProcessError:
                    self._halted[tid] = 0
                    continue
                if status is not None:
                    self._note(tid, status)
            left = [tid for tid in pending if tid not in self._halted]
            if len(left) < len(pending):
                continue
            if time.monotonic() > deadline:
                raise NotStopping(
                    f"thread {left[0]} of process {self._pid} does not stop",
                    "it waits in the kernel (a disk, a network file system); try again",
                )
            time.sleep(nap)
            nap = min(2 * nap, _NAP_MAX_S)

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
        # Detaching needs a stopped thread; one that was asked to stop and did not yet gets its
        # chance.  What still hangs in the kernel is released when the tracer ends.
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
        return int(stat(pid)[1])
    except (OSError, IndexError, ValueError):
        return 0
