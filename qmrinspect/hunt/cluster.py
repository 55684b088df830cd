"""A campaign on a cluster
-----------------------

Through dask.distributed, an optional extra: each worker process keeps a bench, and a
job whose worker dies is done by another one.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import QmrError, TargetError, UsageError
from .bench import Bench
from .campaign import Done
from .settings import Job, Settings

__all__ = ["run_on"]

_CONNECT_S = 5.0
_RETRIES = 2

# One bench a thread: dask may run several tasks of a process at once, and the VM of a
# thread ends with that thread.
_benches = threading.local()


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
    with client:
        futures = {
            client.submit(do_job, tuple(settings), tuple(job), pure=False, retries=_RETRIES): (
                number,
                job,
            )
            for number, job in jobs
        }
        for future in dask.as_completed(futures, loop=client.loop):
            number, job = futures[future]
            if future.status == "finished":
                rows, failure = future.result()
                yield Done(number, job, rows, _failure(*failure) if failure else None)
            else:
                lost = f"the cluster lost the job: {future.exception()}"
                yield Done(number, job, (), _failure(lost, "run it again", 3))
            future.release()


def do_job(
    settings: tuple[Any, ...], job: tuple[str, str]
) -> tuple[list[dict[str, Any]], tuple[str, str, int] | None]:
    """Do one job; runs on a worker.  Returns rows, or how it failed."""
    wanted = Settings(*settings)
    known = getattr(_benches, "bench", None)
    if known is None or known[0] != wanted:
        if known is not None:
            known[1].close()
        known = _benches.bench = (wanted, Bench(wanted))
    bench = known[1]
    try:
        return list(bench.do(Job(*job))), None
    except QmrError as error:
        bench.close()
        return [], (error.text, error.hint, error.exit_code)


def _failure(text: str, hint: str, code: int) -> QmrError:
    error = QmrError(text, hint)
    error.exit_code = code
    return error
