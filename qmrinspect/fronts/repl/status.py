"""The status bar, and events in a line
------------------------------------
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ... import __version__
from ...report import render
from ...text import printable
from ..events import looks

if TYPE_CHECKING:
    from ...monitor.base import Event
    from .session import ReplSession

__all__ = ["WORTH_A_WORD_S", "event_text", "flood_text", "greeting", "status"]

_DATA_MAX = 300
#: A command that takes fewer seconds is not worth a word.
WORTH_A_WORD_S = 0.2

_STATES = {"running": "good", "ended": "error", "guest-panicked": "error", "shutdown": "warning"}


def greeting(session: ReplSession) -> list[str]:
    """Return two lines for the beginning: what it is attached to, and what to type first."""
    vm = session.vm
    if vm is None:
        return [
            f"qmr {__version__}, not attached to a VM",
            "ps lists what runs, attach NAME takes one; help lists the verbs, Ctrl-D leaves",
        ]
    monitor = vm.connected()
    pid = f" (pid {vm.pid})" if vm.pid else ""
    version = f", QEMU {printable(monitor.version)}" if monitor and monitor.version else ""
    state = f", {vm.state}" if vm.state else ""
    leaves = ", Ctrl-D leaves and it runs on" if vm.live else ", Ctrl-D leaves"
    return [
        f"qmr {__version__} on {vm.name}{pid}{version}{state}",
        f"check looks for leaks; help lists the verbs, Tab completes{leaves}",
    ]


def event_text(event: Event) -> str:
    """Return an event as one line, in the colour it deserves."""
    when = event.clock()[: len("12:30:00.123")]
    data = f" {json.dumps(event.data)}" if event.data else ""
    text = printable(f"{when} {event.name}{data}", _DATA_MAX)
    return render.paint(text, looks(event))


def flood_text(events: Sequence[Event], most: int) -> list[str]:
    """Return many events in few lines: those that stand out, and how many others."""
    loud = [event for event in events if looks(event) != "dim"][-most:]
    others = Counter(event.name for event in events) - Counter(event.name for event in loud)
    counts = ", ".join(f"{printable(name)} x{n}" for name, n in others.most_common(6))
    total = render.plural(sum(others.values()), "event")
    more = render.paint(f"{total}: {counts} (events lists them)", "dim")
    return [*(event_text(event) for event in loud), *([more] if others else [])]


def status(
    session: ReplSession, running: tuple[str, float] | None, waiting: int
) -> list[tuple[str, str]]:
    """Return the status bar as fragments of (style class, text)."""
    parts: list[tuple[str, str]] = []

    def add(text: str, look: str | None = None) -> None:
        if parts:
            parts.append(("class:bar.dim", " | "))
        parts.append((f"class:bar.{look}" if look is not None else "", text))

    vm = session.vm
    if vm is None:
        add("not attached", "dim")
    else:
        add(f"{vm.name} {vm.pid}" if vm.pid and str(vm.pid) != vm.name else vm.name, "name")
        if vm.state:
            add(vm.state, _STATES.get(vm.state, "warning"))
        if vm.live and vm.monitor_missing:
            add("memory only", "warning")
        if vm.summary is not None:
            seen = vm.summary
            add(seen.policy)
            add(render.plural(seen.objects, "object"))
            if seen.leaked:
                add(f"{seen.leaked} leaked", "error")
            if seen.errors:
                add(render.plural(seen.errors, "error"), "error")
            add(f"{seen.unexplained} unexplained", "warning" if seen.unexplained else "good")
            if seen.stop_us:
                add(f"stop {render.duration(seen.stop_us)}")
        else:
            add("no reading yet", "dim")
    if running is not None and running[1] >= WORTH_A_WORD_S - 0.01:
        line = printable(running[0].split("\n")[0], 40)
        more = f", {waiting} waiting" if waiting else ""
        doing = session.activity or line
        add(f"{doing}{more} (Ctrl-C cancels)", "warning")
    return [("", " "), *parts]
