"""What the tools that provide QEMUs share: one cache, and a shell that keeps a log."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Callable

# Variables of a surrounding make or virtual environment that would leak into a build.
FOREIGN = ("CFLAGS", "CPPFLAGS", "LDFLAGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "NINJA_STATUS")
FOREIGN_PYTHON = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")


class ToolError(Exception):
    """The tool cannot go on; the text says what to do."""


def say(text: str) -> None:
    """Tell the user what happens: stdout is for the result alone."""
    print(f"{Path(sys.argv[0]).stem}: {text}", file=sys.stderr, flush=True)


def main(work: Callable[[], Iterable[object]]) -> int:
    """Print what a tool provides, a line each; return the exit status."""
    try:
        for provided in work():
            print(provided)
    except (ToolError, OSError) as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose description is the head of a tool."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def digest(*parts: str) -> str:
    """Return a short name for what these parts are."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is either the old or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def copy_atomically(source: Path, target: Path) -> None:
    """Copy a file and its mode, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    shutil.copyfile(source, partial)
    shutil.copymode(source, partial)
    os.replace(partial, target)


def remove(path: Path) -> None:
    """Remove a directory; a failure is one, since what is left would be used again."""
    if path.exists():
        shutil.rmtree(path)


class Shell:
    """Runs commands and keeps what they say in one log file.

    :param log: the file; it is started anew.
    :param lock: descriptor of a held lock.  The commands inherit it, so that the
        lock outlives a killed script for as long as its compiler runs.
    """

    def __init__(self, log: Path, lock: int) -> None:
        self.log = log
        self._lock = lock
        self.env = {k: v for k, v in os.environ.items() if k not in FOREIGN + FOREIGN_PYTHON}
        self.env["LC_ALL"] = "C.UTF-8"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")

    def run(self, *command: str | Path, cwd: Path | None = None, tell: bool = True) -> str:
        """Run a command, show its ``[n/m]`` progress, and return its output.

        :param tell: show the end of its output when it fails.
        :raises ToolError: when it fails.
        """
        words = [str(word) for word in command]
        lines: list[str] = []
        shown = time.monotonic()
        with self.log.open("a") as log:
            print("+", *words, file=log, flush=True)
            try:
                child = subprocess.Popen(
                    words,
                    cwd=cwd,
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    pass_fds=(self._lock,),
                )
            except OSError as error:
                raise ToolError(f"cannot run {words[0]}: {error.strerror}") from error
            with child:
                assert child.stdout is not None
                for line in child.stdout:
                    lines.append(line)
                    log.write(line)
                    progress = re.match(r"\[(\d+)/(\d+)\]", line)
                    if progress and time.monotonic() - shown > 15:
                        shown = time.monotonic()
                        say(f"{progress[1]} of {progress[2]} steps")
        if child.returncode:
            for line in lines[-25:] if tell else ():
                print("  " + line.rstrip(), file=sys.stderr)
            status = f"status {child.returncode}"
            last = next((line.strip() for line in reversed(lines) if line.strip()), status)
            raise ToolError(f"{words[0]} failed: {last} (its whole output is in {self.log})")
        return "".join(lines)


class Cache:
    """Where everything is kept, outside the repository.

    ========================  ====================================================
    ``index/RECIPE``          the source version that this recipe built last
    ``bin/KEY/``              finished binaries
    ``tree/KEY/src``, build   unpacked source and its build directory
    ``stock/KEY/``            the roots of QEMUs as Debian built them
    ``meson-HASH``            virtual environment that runs meson
    ``apt/SUITE``             private package lists
    ========================  ====================================================
    """

    def __init__(self) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.root = Path(home) / "qmr" / "qemu"

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the cache for one tool at a time; gives the lock's descriptor."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another build is running, waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock.fileno()
