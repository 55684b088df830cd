"""A monitor that remembers
------------------------

Keeps what went over the line, so that a finding can be handed over with it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator

from ..errors import MonitorError
from ..masking import masked_message
from .addresses import Address
from .base import GREETING_TIMEOUT, Arguments, CommandError, Event
from .qmp import QmpMonitor

__all__ = ["RecordingMonitor"]

# A hunt of many cycles must not grow: this is some ten cycles.
_KEPT = 2000


class RecordingMonitor(QmpMonitor):
    """A :class:`QmpMonitor` with a transcript of its last messages."""

    def __init__(self, address: str | Address, timeout: float = GREETING_TIMEOUT) -> None:
        self._log: deque[dict[str, object]] = deque(maxlen=_KEPT)
        super().__init__(address, timeout)

    @property
    def transcript(self) -> list[dict[str, object]]:
        """Commands, answers and events, oldest first, without secrets."""
        return [masked_message(message) for message in self._log]

    def forget(self) -> None:
        """Begin the transcript anew."""
        self._log.clear()

    def _exchange(
        self, command: str, arguments: Arguments, timeout: float, descriptor: int | None = None
    ) -> object:
        request: dict[str, object] = {"execute": command}
        if arguments:
            request["arguments"] = dict(arguments)
        with self._recorded(request):
            answer = super()._exchange(command, arguments, timeout, descriptor)
            self._log.append({"return": answer})
        return answer

    @contextlib.contextmanager
    def _recorded(self, request: dict[str, object]) -> Iterator[None]:
        self._log.append(request)
        try:
            yield
        except CommandError as error:
            self._log.append({"error": {"class": error.error_class, "desc": error.desc}})
            raise
        except MonitorError as error:
            self._log.append({"lost": error.text})
            raise

    def _arrived(self, event: Event) -> None:
        super()._arrived(event)
        self._log.append({"event": event.name, "data": dict(event.data)})
