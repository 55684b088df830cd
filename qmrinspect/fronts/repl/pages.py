"""Commands and their output on a terminal
---------------------------------------

Commands run one after the other, each in its own thread.  What one answers is held back
for a moment, so that a long answer can go to a pager; what takes its time is shown as it
comes.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Protocol

from ...errors import QmrError
from ...report import render
from ..jobs import Job
from ..options import Options
from .engine import complaint, guarded
from .look import highlighted
from .status import greeting

if TYPE_CHECKING:
    from .engine import Engine
    from .session import ReplSession

__all__ = ["Page", "Runner"]

# Output that is not complete after this many seconds is shown as it comes.
_HOLD_S = 0.4
# Lines of the prompt, the status bar and the room for a menu.
_ROWS_KEPT = 3


def terminal_style() -> render.Style:
    """Return how text is shown on the terminal as it is now."""
    try:
        columns = os.get_terminal_size().columns
    except OSError:
        columns = 80
    color = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return render.Style(color, columns)


class Surface(Protocol):
    """The terminal that pages are shown on."""

    runner: Runner
    session: ReplSession
    engine: Engine

    def emit(self, text: str, pager: bool = False) -> None:
        """Print above the prompt, or in the pager."""

    def notify(self, text: str, look: str | None) -> None:
        """Print a line that no command asked for."""

    def redraw(self) -> None:
        """Draw the prompt and the status bar anew."""

    def redraw_later(self) -> None:
        """The same, if the command takes so long that it is worth a word."""

    def stop(self) -> None:
        """End the session."""

    def typed_ahead(self) -> bool:
        """Whether the user types the next line already."""


class Page:
    """The output of one command."""

    def __init__(self, screen: Surface, job: Job, hold: bool) -> None:
        self._screen, self._job = screen, job
        self._held: list[str] = []
        self._lock = threading.Lock()
        self._streams = not hold
        self._timer: threading.Timer | None = None

    def line(self, text: str) -> None:
        """Take a line; drop it when the command was given up."""
        if self._job.cancelled:
            return
        with self._lock:
            if self._streams:
                self._screen.emit(text)
                return
            self._held.append(text)
            if self._timer is None:
                self._timer = threading.Timer(_HOLD_S, self._stream)
                self._timer.daemon = True
                self._timer.start()

    def json(self, text: str) -> None:
        """Take a JSON document."""
        for row in highlighted(text).splitlines():
            self.line(row)

    def _stream(self) -> None:
        with self._lock:
            self._streams = True
            self._show(pager=False)

    def _show(self, pager: bool) -> None:
        if self._held and not self._job.cancelled:
            self._screen.emit("\n".join(self._held), pager)
        self._held = []

    def end(self) -> None:
        """Show what is held back: in a pager when it is long and the user waits for it."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            try:
                rows = os.get_terminal_size().lines
            except OSError:
                rows = 24
            long = len(self._held) > rows - _ROWS_KEPT
            waits = not self._screen.typed_ahead() and not self._screen.runner.waiting()
            self._show(pager=long and waits and not self._streams)


class Runner:
    """Runs one line after the other; the prompt stays free meanwhile."""

    def __init__(self, screen: Surface) -> None:
        self._screen = screen
        self._lock = threading.Lock()
        self._queue: deque[tuple[str, Callable[[Job], None]]] = deque()
        self._job: Job | None = None

    @property
    def busy(self) -> bool:
        """Whether a command runs."""
        return self._job is not None

    def running(self) -> tuple[str, float] | None:
        """Return the line that runs, and for how many seconds."""
        job = self._job
        return (job.line, time.monotonic() - job.started) if job is not None else None

    def waiting(self) -> int:
        """Return how many lines wait for their turn."""
        return len(self._queue)

    def start(self, options: Options, startup: Path | None) -> None:
        """Attach, and run the startup file."""
        self._put("attach", lambda job: self._attach(options))
        if startup is not None:
            self._put(f"source {startup}", lambda job: self._run(job, f"source '{startup}'"))

    def submit(self, line: str, echo: bool = False) -> None:
        """Run a line when those before it are done.

        :param echo: say first which one it is, where several came at once.
        """
        self._put(line, lambda job: self._run(job, line, echo))

    def cancel(self) -> str | None:
        """Give up the running line and those that wait; return the running one, None for none.

        Its thread ends by itself; the next line does not wait for that.
        """
        with self._lock:
            job, self._job = self._job, None
            self._queue.clear()
        if job is None:
            return None
        job.cancel()
        self._screen.session.activity = None
        self._screen.redraw()
        return job.line

    def _put(self, line: str, work: Callable[[Job], None]) -> None:
        with self._lock:
            self._queue.append((line, work))
        self._next()

    def _next(self) -> None:
        with self._lock:
            if self._job is not None or not self._queue:
                return
            line, work = self._queue.popleft()
            job = self._job = Job(line)
        threading.Thread(target=self._work, args=(job, work), name="command", daemon=True).start()
        self._screen.redraw_later()

    def _work(self, job: Job, work: Callable[[Job], None]) -> None:
        try:
            with job:
                work(job)
        finally:
            with self._lock:
                mine = self._job is job
                if mine:
                    self._job = None
            if mine:
                self._screen.redraw()
                self._next()
                if self._screen.session.over:
                    self._screen.stop()

    def _run(self, job: Job, line: str, echo: bool = False) -> None:
        render.use_style(terminal_style())
        if echo:
            self._screen.notify(f"> {line}", "dim")
        page = Page(self._screen, job, hold=True)
        screen = self._screen

        def complain(text: str) -> None:
            page.end()
            screen.notify(text, "error")

        guarded(screen.engine, line, page, complain)
        page.end()
        if not job.cancelled:
            screen.engine.settle()

    def _attach(self, options: Options) -> None:
        render.use_style(terminal_style())
        screen = self._screen
        try:
            screen.session.attach(options)
        except QmrError as error:
            screen.notify(complaint(error), "warning")
            screen.emit("\n".join(greeting(screen.session)))
            return
        except Exception as error:
            screen.notify(complaint(error), "error")
            return
        screen.emit("\n".join(greeting(screen.session)))
        threading.Thread(target=screen.session.knowledge.warm, name="warm", daemon=True).start()
