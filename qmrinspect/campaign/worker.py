"""A worker of a campaign
----------------------

A process with a VM pool of its own: jobs come in as JSON lines, rows go out.  It ends,
and its VM with it, when its parent does.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ..documents import HuntRow
from ..errors import QmrError
from ..hunt.pool import VmPool
from ..hunt.settings import Job, Settings

__all__ = ["Worker", "WorkerDied", "main"]

# Seconds that a job has to come to its end when nobody waits for it any more.
_LEAVE_S = 2.0


class WorkerDied(QmrError):
    """A worker process ended in the middle of a job."""

    exit_code = 3


class Worker:
    """The parent's side of a worker process.

    :param settings: how it hunts.
    """

    def __init__(self, settings: Settings) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "qmrinspect.campaign.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the parent, whose end is the end of this one.
            start_new_session=True,
        )
        self._send(settings.json())

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def do(self, job: Job, timeout: float) -> Iterator[HuntRow]:
        """Have a job done and yield its rows.

        :param timeout: seconds after which the worker is given up.
        :raises WorkerDied: it ended, or was given up.
        :raises QmrError: what it says it failed with.
        """
        watch = threading.Timer(timeout, self._process.kill)
        watch.daemon = True
        watch.start()
        try:
            self._send(job.json())
            while True:
                message = self._receive()
                if "row" in message:
                    yield message["row"]
                elif "error" in message:
                    failure = QmrError(message["error"], message["hint"])
                    failure.exit_code = message["code"]
                    raise failure
                else:
                    return
        finally:
            watch.cancel()

    def _send(self, message: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._died()
        message: dict[str, Any] = json.loads(line)
        return message

    def _died(self) -> WorkerDied:
        status = self._process.wait()
        return WorkerDied(f"a worker of the hunt ended with status {status}", "run it again")

    def close(self) -> None:
        """End the process and wait for it."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _lines(pool: VmPool) -> queue.Queue[str | None]:
    """Return the lines that come in, and None when the parent wants no more.

    A job that is still under way some time after that is given up.
    """
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)
        time.sleep(_LEAVE_S)
        pool.close()
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return lines


def main() -> None:
    """Do jobs until the parent closes the pipe."""
    # A walk makes a hundred thousand small objects without a circle.
    gc.set_threshold(100_000, 50, 20)
    settings = Settings.from_json(json.loads(sys.stdin.readline()))
    # What a library prints must not get between the rows.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with VmPool(settings) as pool:
        lines = _lines(pool)

        def say(message: Mapping[str, object]) -> None:
            try:
                print(json.dumps(message), file=out)
            except BrokenPipeError:  # the parent was interrupted, and has said so
                pool.close()
                os._exit(0)

        while True:
            line = lines.get()
            if line is None:
                return
            job = Job.from_json(json.loads(line))
            try:
                for row in pool.do(job):
                    say({"row": row})
            except QmrError as error:
                pool.close()
                say({"error": error.text, "hint": error.hint, "code": error.exit_code})
            else:
                say({"done": job.driver})


if __name__ == "__main__":
    main()
