"""A real GDB to talk to: one command there, one JSON line back.

Run by Python this is the test's side, :class:`Gdb`.  GDB runs the same file as a
script, and is the other side: it reads requests from one pipe and answers on another.
"""

from __future__ import annotations

import functools
import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "gdb" / "qmr.py"

#: Seconds that one command may take; the first one reads debug information.
PATIENCE = 50.0


class GdbRefused(Exception):
    """GDB refused a command; the text is what it said."""


@functools.cache
def debug_qemu() -> str:
    """Return the QEMU 7.2 with debug information; build it where there is none yet."""
    named = os.environ.get("QMR_TEST_QEMU_72")
    if named:
        return named
    tool = [sys.executable, str(ROOT / "tools" / "build_qemu.py"), "7.2"]
    return subprocess.run(tool, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


class Gdb:
    """A GDB of its own, which ends with its block.

    :param args: what GDB is started with.
    :param script: sourced first; None for none.
    :param program: which GDB.
    :param env: more variables for it.
    """

    def __init__(
        self,
        *args: object,
        script: Path | None = SCRIPT,
        program: str = "gdb",
        env: dict[str, str] | None = None,
    ) -> None:
        there, self._requests = os.pipe()
        self._answers, back = os.pipe()
        self.process = subprocess.Popen(
            [program, "-nx", "-q", "-batch", *map(str, args), "-x", __file__],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "QMR_TEST_PIPES": f"{there} {back}",
                "DEBUGINFOD_URLS": "",
                "LC_ALL": "C.UTF-8",
                **(env or {}),
            },
            pass_fds=(there, back),
            cwd="/",
        )
        os.close(there)
        os.close(back)
        self._rest = b""
        self.run("set width 0")
        if script is not None:
            self.run(f"source {script}")

    def send(self, command: str) -> None:
        """Send a command without waiting for its answer."""
        os.write(self._requests, json.dumps(command).encode() + b"\n")

    def receive(self) -> Any:
        """Wait for one JSON line of the other side."""
        while b"\n" not in self._rest:
            if not select.select([self._answers], [], [], PATIENCE)[0]:
                self.close()
                raise AssertionError(f"GDB does not answer within {PATIENCE:g} s")
            piece = os.read(self._answers, 1 << 16)
            if not piece:
                raise AssertionError(f"GDB has ended: {self.close()[-2000:]}")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def run(self, command: str) -> str:
        """Run a command and return what it printed.

        :raises GdbRefused: GDB, or qmr in it, refused.
        """
        self.send(command)
        answer = self.receive()
        if "error" in answer:
            raise GdbRefused(answer["error"])
        return str(answer["out"])

    def json(self, command: str) -> Any:
        """Run a command that prints one JSON document."""
        return json.loads(self.run(command))

    def close(self) -> str:
        """End GDB and return what it wrote to its terminal."""
        if self._requests >= 0:
            os.close(self._requests)
            self._requests = -1
        try:
            said = self.process.communicate(timeout=20)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            said = self.process.communicate()[0]
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1
        return said.decode("utf-8", "replace")

    def __enter__(self) -> Gdb:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def refusal(gdb: Gdb, command: str) -> str:
    """Run a command that must be refused; return the sentence."""
    try:
        out = gdb.run(command)
    except GdbRefused as error:
        return str(error)
    raise AssertionError(f"{command} was not refused: {out!r}")


def complete(gdb: Gdb, line: Sequence[str] | str) -> list[str]:
    """Return what GDB would complete a line to."""
    return gdb.run(f"complete {line}").splitlines()


def _serve() -> None:
    import gdb

    # GDB itself runs this file; its module has no types here.
    there, back = (int(word) for word in os.environ["QMR_TEST_PIPES"].split())
    for line in os.fdopen(there):
        try:
            answer = {"out": gdb.execute(json.loads(line), to_string=True)}
        except gdb.error as error:
            answer = {"error": str(error)}
        except Exception as error:
            answer = {"error": repr(error)}
        os.write(back, json.dumps(answer).encode() + b"\n")


if "gdb" in sys.modules and "QMR_TEST_PIPES" in os.environ:
    _serve()
