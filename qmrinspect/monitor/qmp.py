"""QMP over qemu.qmp
-----------------

The monitor of the command line and the REPL.

This is the one module that imports qemu.qmp, which is still alpha.  Its asyncio
client lives in a thread of its own; the methods here hand coroutines over and wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from qemu.qmp import (
    ConnectError,
    ExecInterruptedError,
    ExecuteError,
    Message,
    QMPClient,
    QMPError,
    Runstate,
    StateError,
)

from ..errors import MonitorError
from .base import Arguments, CommandError, Event, MonitorLost
from .connecting import (
    SocketMonitor,
    busy_error,
    check_greeting,
    closed_error,
    garbled_error,
    late_error,
    lost_error,
    peer_pid,
)

__all__ = ["QmpMonitor"]

T = TypeVar("T")

# Seconds that closing may take before it is left to the end of the process.
_CLOSE_TIMEOUT = 2.0


class QmpMonitor(SocketMonitor):
    """A QMP session over qemu.qmp."""

    def _negotiate(self, timeout: float) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run_loop, name=f"qmp {self.address}", daemon=True
        )
        self._thread.start()
        try:
            self._run(self._open(timeout))
        except BaseException:
            self._stop_loop()
            self._socket.close()
            raise

    def _exchange(
        self, command: str, arguments: Arguments, timeout: float, descriptor: int | None = None
    ) -> object:
        self._check()
        return self._run(self._execute(command, arguments, timeout, descriptor))

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        self._queue.fail(closed_error(self.address))
        with contextlib.suppress(MonitorError, asyncio.TimeoutError):
            self._run(asyncio.wait_for(self._disconnect(), _CLOSE_TIMEOUT))
        self._stop_loop()
        self._socket.close()

    # The other thread, from here on.

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        # Every coroutine bounds itself, so this wait is bounded too.
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_TIMEOUT)

    async def _open(self, timeout: float) -> None:
        self._client = QMPClient()
        # The default listener keeps every event it accepts, for ever (its history):
        # ours takes them first, and it accepts none.
        self._client.events.event_filter = self._take_event
        # The client closes the socket when it fails, so this is asked before.
        pid = peer_pid(self._socket)
        try:
            await asyncio.wait_for(self._client.connect(self._socket), timeout)
        except asyncio.TimeoutError:
            if self._client.greeting is not None:
                raise late_error(self.address, "qmp_capabilities", timeout) from None
            raise busy_error(self.address, timeout, pid) from None
        except ConnectError as error:
            raise _mapped(self.address, error.exc) from error
        greeting = self._client.greeting
        # Who has the other end of a TCP connection is seen once that was accepted.
        self.peer = pid or peer_pid(self._socket)
        if greeting is not None:
            self.version = check_greeting(greeting._asdict(), self.address)
        self._watch = asyncio.ensure_future(self._watch_connection())

    def _take_event(self, message: Message) -> bool:
        self._arrived(Event.from_message(message))
        return False

    def _arrived(self, event: Event) -> None:
        self._queue.put(event)

    async def _watch_connection(self) -> None:
        # Ends when the connection does; disconnect() then raises the reason.
        while self._client.runstate == Runstate.RUNNING:
            await self._client.runstate_changed()
        try:
            await self._client.disconnect()
            self._queue.fail(lost_error(self.address))
        except (QMPError, OSError, EOFError, ValueError) as error:
            self._queue.fail(_mapped(self.address, error))

    async def _execute(
        self, command: str, arguments: Arguments, timeout: float, descriptor: int | None
    ) -> object:
        try:
            if descriptor is not None:
                # QEMU keeps it for the next command that comes.
                self._client.send_fd_scm(descriptor)
            return await asyncio.wait_for(self._client.execute(command, arguments), timeout)
        except asyncio.TimeoutError:
            raise late_error(self.address, command, timeout) from None
        except ExecuteError as error:
            raise CommandError(command, error.error_class, str(error)) from None
        except (ExecInterruptedError, StateError):
            await asyncio.wait({self._watch}, timeout=_CLOSE_TIMEOUT)
            failure = self._queue.failure
            if failure is None or (type(failure) is MonitorLost and "closed" in failure.text):
                failure = lost_error(self.address, command)
            raise failure from None
        except (QMPError, OSError) as error:
            raise _mapped(self.address, error) from error

    async def _disconnect(self) -> None:
        # One that has begun to disconnect ends by itself; cancelled, it would leave its reason to
        # nobody, and asyncio would print that.
        if self._client.runstate == Runstate.RUNNING:
            self._watch.cancel()
        await asyncio.wait({self._watch})
        try:
            if self._client.runstate != Runstate.IDLE:
                await self._client.disconnect()
        except (QMPError, OSError, EOFError, ValueError):
            pass


def _mapped(address: str, error: Exception) -> MonitorError:
    # qemu.qmp wraps what went wrong, sometimes twice; the raw bytes are at the bottom.
    inner: object = error
    while isinstance(getattr(inner, "exc", None), Exception):
        inner = inner.exc  # type: ignore[attr-defined]
    if isinstance(inner, (EOFError, OSError)):
        return lost_error(address)
    raw = getattr(inner, "raw", None)
    if raw is None:
        raw = str(getattr(inner, "value", inner)).encode()
    return garbled_error(address, raw)
