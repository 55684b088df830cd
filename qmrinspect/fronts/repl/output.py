"""Where output goes
-----------------

To the terminal, into a file, or through a shell pipeline.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Callable, Protocol

from ...errors import TargetError
from ...outfile import open_private
from ...report import render
from ..jobs import current
from .line import Command
from .statements import LINES_MAX

__all__ = ["Kept", "Output", "opened", "piped"]


class Output(Protocol):
    """Where a line's output goes."""

    def line(self, text: str) -> None:
        """Take one line, without its end."""

    def json(self, text: str) -> None:
        """Take a JSON document, of several lines maybe."""


class Kept:
    """Output that is remembered as it goes."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self._keep(text)
        self._out.line(text)

    def json(self, text: str) -> None:
        for row in text.splitlines():
            self._keep(row)
        self._out.json(text)

    def _keep(self, text: str) -> None:
        if len(self.lines) < LINES_MAX:
            self.lines.append(text)


class _Stream:
    """Output into a file or a pipeline: plain, and as wide as it is."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.lines = 0

    def line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
        self.lines += 1

    def json(self, text: str) -> None:
        for row in text.splitlines():
            self.line(row)


@contextlib.contextmanager
def opened(command: Command, output: Output) -> Iterator[Output]:
    """Open what the output of a command goes to.

    :raises TargetError: the file cannot be written.
    """
    if command.file:
        mode = "a" if command.append else "w"
        path = Path(command.file).expanduser()
        render.use_style(render.Style(False, None))
        try:
            with open(
                path, mode, encoding="utf-8", errors="backslashreplace", opener=open_private
            ) as stream:
                yield _Stream(stream)
        except OSError as error:
            raise TargetError(f"{path} cannot be written: {error.strerror}") from None
        finally:
            render.use_style(None)
    elif command.pipe:
        render.use_style(render.Style(False, None))
        try:
            with piped(command.pipe, output) as sink:
                yield sink
        finally:
            render.use_style(None)
    else:
        yield output


class _Closed(Exception):
    """The pipeline has read enough."""


class _Pipe(_Stream):
    def line(self, text: str) -> None:
        try:
            super().line(text)
        except (BrokenPipeError, ValueError):
            raise _Closed from None


@contextlib.contextmanager
def piped(pipeline: str, output: Output) -> Iterator[Output]:
    """Send what is written through a shell, and its output on."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", pipeline],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="backslashreplace",
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    reader = threading.Thread(target=_forward, args=(process.stdout, output.line), daemon=True)
    reader.start()
    job = current()
    if job is not None:
        job.on_cancel(lambda: _end(process))
    try:
        with contextlib.suppress(_Closed):
            yield _Pipe(process.stdin)
    except BaseException:
        _end(process)
        raise
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()
        reader.join()
        process.wait()


def _forward(stream: IO[str], show: Callable[[str], None]) -> None:
    for text in stream:
        show(render.safe(text.rstrip("\n").expandtabs()))


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGTERM)
