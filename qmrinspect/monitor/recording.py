"""A monitor that remembers
------------------------

Keeps what went over the line, so that a finding can be handed over with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from ..errors import MonitorError
from .base import CommandError, Event
from .plain import PlainMonitor

__all__ = ["RecordingMonitor"]

# A hunt of many cycles must not grow: this is some ten cycles.
_KEPT = 2000


class RecordingMonitor(PlainMonitor):
    """A :class:`PlainMonitor` with a transcript of its last messages."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._log: deque[dict[str, object]] = deque(maxlen=_KEPT)
        super().__init__(*arguments, **options)

    @property
    def transcript(self) -> list[dict[str, object]]:
        """Commands, answers and events, oldest first."""
        return list(self._log)

    def forget(self) -> None:
        """Begin the transcript anew."""
        self._log.clear()

    def _exchange(
        self,
        command: str,
        arguments: Mapping[str, object] | None,
        timeout: float,
        descriptor: int = -1,
    ) -> object:
        request: dict[str, object] = {"execute": command}
        if arguments:
            request["arguments"] = dict(arguments)
        self._log.append(request)
        try:
            answer = super()._exchange(command, arguments, timeout, descriptor)
        except CommandError as error:
            self._log.append({"error": {"class": error.error_class, "desc": error.desc}})
            raise
        except MonitorError as error:
            self._log.append({"lost": error.text})
            raise
        self._log.append({"return": answer})
        return answer

    def _take_event(self, event: Event) -> None:
        super()._take_event(event)
        self._log.append({"event": event.name, "data": dict(event.data)})
