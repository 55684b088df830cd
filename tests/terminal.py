"""A terminal that a program runs in, for tests: a pty, and what its screen shows.

Nothing here sleeps: :meth:`Terminal.wait` reads what the program writes until the screen
shows what is waited for.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pexpect
import pyte

#: Seconds that a screen has to show what a test waits for.
PATIENCE = 20.0


class _Screen(pyte.HistoryScreen):
    """A screen that answers to the program, as a terminal does when asked for its cursor."""

    answer: Callable[[str], None] = staticmethod(lambda text: None)

    def write_process_input(self, data: str) -> None:
        self.answer(data)

    # pyte 0.8 does not know these, and takes them for text.
    def set_margins(self, *args: int, **kwargs: bool) -> None:
        super().set_margins(*args)


class Terminal:
    """qmr in a terminal of its own.

    :param words: qmr's arguments.
    :param home: where its history and its start-up file are.
    :param program: what Python runs.
    """

    def __init__(
        self,
        *words: object,
        home: Path,
        rows: int = 40,
        columns: int = 120,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "qmrinspect"),
    ) -> None:
        self.screen = _Screen(columns, rows, history=20_000)
        self.stream = pyte.Stream(self.screen)
        #: All bytes that came, as text.
        self.raw = ""
        self.child = pexpect.spawn(
            sys.executable,
            [*program, *map(str, words)],
            dimensions=(rows, columns),
            encoding="utf-8",
            timeout=PATIENCE,
            env={
                **{
                    k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")
                },
                "TERM": "xterm-256color",
                "XDG_CONFIG_HOME": str(home / "config"),
                "XDG_STATE_HOME": str(home / "state"),
                "QMR_PAGER": "cat",
                **(env or {}),
            },
        )
        self.screen.answer = self.child.send

    def pump(self, seconds: float = 0.05) -> bool:
        """Take what the program wrote within that time; False when it has ended."""
        try:
            text = self.child.read_nonblocking(65536, seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += text
        self.stream.feed(text)
        return True

    @property
    def lines(self) -> list[str]:
        """Everything above and on the screen, top to bottom."""
        above = [
            "".join(row[x].data for x in range(self.screen.columns)).rstrip()
            for row in self.screen.history.top
        ]
        return above + [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        """Everything above and on the screen as one text."""
        return "\n".join(self.lines)

    @property
    def bar(self) -> str:
        """The status bar."""
        return next((line for line in reversed(self.screen.display) if line.strip()), "").strip()

    def wait(self, wanted: str | Callable[[Terminal], bool], why: str = "") -> None:
        """Read until the screen shows a text, or until a condition holds."""
        deadline = time.monotonic() + PATIENCE
        while True:
            if (wanted in self.text) if isinstance(wanted, str) else wanted(self):
                return
            alive = self.pump()
            if not alive or time.monotonic() > deadline:
                if (wanted in self.text) if isinstance(wanted, str) else wanted(self):
                    return
                state = "in time" if alive else "before the program ended"
                raise AssertionError(f"{why or wanted!r} did not come {state}:\n{self.text}")

    def type(self, text: str) -> None:
        """Type without pressing Enter."""
        self.child.send(text)

    def enter(self, line: str = "") -> None:
        """Type a line and press Enter."""
        self.child.send(line + "\r")

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the terminal."""
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)

    def ended(self, patience: float = PATIENCE) -> int | None:
        """Wait for the end of the program, so many seconds, and return its exit status."""
        deadline = time.monotonic() + patience
        while self.pump():
            assert time.monotonic() < deadline, f"the program did not end:\n{self.text}"
        self.child.close()
        return self.child.exitstatus

    def close(self) -> None:
        """End the program."""
        self.child.close(force=True)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
