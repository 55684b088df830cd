"""A campaign on a cluster
-----------------------

Through dask.distributed, an optional extra: each worker process keeps a VM pool until
the campaign ends, and a job whose worker dies is done by another one.
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable, Optional, Protocol

from ..documents import HuntRow
from ..errors import QmrError, TargetError, UsageError
from ..hunt.pool import VmPool
from ..hunt.settings import Job, Settings
from ..outfile import write
from .jobs import Done

__all__ = ["do_job", "end", "run_on"]

_CONNECT_S = 5.0
_RETRIES = 2

# One context a thread: dask may run several tasks of a process at once, and the VM of a
# thread ends with that thread.
_contexts = threading.local()
# The contexts of this process by their campaigns, whose ends other threads hear of.
_open: dict[str, list[_Context]] = defaultdict(list)

# What a worker sends back: rows, the files of their bundles, and how it failed if it did.
Answer = tuple[list[HuntRow], dict[str, bytes], Optional[tuple[str, Optional[str], int]]]


class _Client(Protocol):
    """What is used of ``distributed.Client`` by name."""

    def run(self, function: Callable[..., object], *arguments: object) -> object: ...


class _Context:
    """A VM pool, and a directory for the bundles that it writes."""

    def __init__(self, campaign: str, settings: Settings) -> None:
        self.campaign = campaign
        _open[campaign].append(self)
        self._place = tempfile.TemporaryDirectory(prefix="qmr-bundles-")
        self.directory = Path(self._place.name)
        own = str(self.directory) if settings.bundle else None
        self.pool = VmPool(settings._replace(bundle=own))

    def files(self) -> dict[str, bytes]:
        """Take the files of all bundles, by their names in the directory."""
        files = [path for path in self.directory.rglob("*") if path.is_file()]
        taken = {str(path.relative_to(self.directory)): path.read_bytes() for path in files}
        for path in files:
            path.unlink()
        return taken

    def close(self) -> None:
        self.pool.close()
        self._place.cleanup()


def run_on(address: str, settings: Settings, jobs: Sequence[tuple[int, Job]]) -> Iterator[Done]:
    """Do jobs on a cluster and yield what came of them, in the order in which they end.

    :param address: of the scheduler, ``tcp://HOST:PORT``.
    :raises UsageError: dask.distributed is not installed.
    :raises TargetError: no scheduler answers there.
    """
    try:
        dask = importlib.import_module("distributed")
    except ImportError:
        raise UsageError(
            "--dask needs dask.distributed", "pip install 'qmrinspect[dask]'"
        ) from None
    try:
        client = dask.Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise TargetError(
            f"no dask scheduler answers at {address}: {error}", "dask scheduler starts one"
        ) from None
    campaign = str(uuid.uuid4())
    with client, contextlib.ExitStack() as stack:
        stack.callback(_end_on_all, client, campaign)
        futures = {
            client.submit(
                do_job, campaign, tuple(settings), tuple(job), pure=False, retries=_RETRIES
            ): (number, job)
            for number, job in jobs
        }
        for future in dask.as_completed(futures, loop=client.loop):
            number, job = futures[future]
            if future.status == "finished":
                rows, files, failure = future.result()
                _unpack(settings.bundle, rows, files)
                yield Done(number, job, rows, _failure(*failure) if failure else None)
            else:
                lost = f"the cluster lost the job: {future.exception()}"
                yield Done(number, job, (), _failure(lost, "run it again", 3))
            future.release()


def _end_on_all(client: _Client, campaign: str) -> None:
    # A cluster that is not there any more has no VMs either.
    with contextlib.suppress(Exception):
        client.run(end, campaign)


def do_job(campaign: str, settings: tuple[object, ...], job: tuple[str, str | None]) -> Answer:
    """Do one job; runs on a worker."""
    context = getattr(_contexts, "context", None)
    if context is None or context.campaign != campaign:
        if context is not None:
            context.close()
        context = _contexts.context = _Context(campaign, Settings._make(settings))
    try:
        return list(context.pool.do(Job(*job))), context.files(), None
    except QmrError as error:
        context.pool.close()
        return [], {}, (error.text, error.hint, error.exit_code)


def end(campaign: str) -> None:
    """End the VMs of a campaign; runs on a worker."""
    for context in _open.pop(campaign, ()):
        context.close()


def _unpack(directory: str | None, rows: list[HuntRow], files: dict[str, bytes]) -> None:
    """Write the bundles that came from a worker where the user wants them."""
    place = Path(directory or "")
    for name, content in files.items():
        path = place / name
        if ".." in path.parts or Path(name).is_absolute():
            raise TargetError(f"a worker sent a file named {name!r}", "look at that worker")
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        write(path, content)
        if path.suffix == ".sh":
            path.chmod(0o700)
    for row in rows:
        if row.get("bundle"):
            row["bundle"] = str(place / Path(row["bundle"]).name)


def _failure(text: str, hint: str | None, code: int) -> QmrError:
    error = QmrError(text, hint)
    error.exit_code = code
    return error
