"""A campaign on a cluster."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from campaigns import EXPECTED, SOME, found, lines, verdicts
from conftest import Qmr

from qmrinspect.hunt.rows import key


@pytest.mark.timeout(150)
def test_a_cluster_loses_no_job_when_a_worker_is_killed(tmp_path: Path) -> None:
    from distributed import Client

    with subprocess.Popen(
        [
            *(sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"),
            *("--port", "0", "--no-dashboard", "--scheduler-file", str(tmp_path / "scheduler")),
        ],
        stderr=subprocess.DEVNULL,
    ) as scheduler:
        workers: list[subprocess.Popen[bytes]] = []
        try:
            client = Client(scheduler_file=str(tmp_path / "scheduler"), timeout=30)
            address = client.scheduler.address
            for number in range(2):
                workers.append(
                    subprocess.Popen(
                        [
                            *(sys.executable, "-m", "distributed.cli.dask_worker", address),
                            *("--nworkers", "1", "--nthreads", "1", "--no-nanny"),
                            *("--no-dashboard", "--name", f"w{number}"),
                            *("--local-directory", str(tmp_path)),
                        ],
                        stderr=subprocess.DEVNULL,
                    )
                )
            client.wait_for_workers(2, timeout=40)
            file = tmp_path / "dask.sqlite"
            hunt = subprocess.Popen(
                [
                    *(sys.executable, "-m", "qmrinspect", "hunt", *SOME, "--json"),
                    *("--dask", address, "--campaign", str(file)),
                    *("--bundle", str(tmp_path / "bundles")),
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert hunt.stdout is not None
            with hunt.stdout:
                first = hunt.stdout.readline()
                workers[0].kill()
                rest = hunt.stdout.read()
            assert hunt.wait(60) == 1
            # The one that lives has no VM any more.
            threads = Path(f"/proc/{workers[1].pid}/task").glob("*/children")
            assert not "".join(path.read_text() for path in threads)
            client.close()
        finally:
            for process in (*workers, scheduler):
                process.kill()
                process.wait()
    rows = [row for row in lines(first + rest) if "device" in row]
    assert verdicts(rows) == EXPECTED
    assert len(rows) == len(SOME)
    # The evidence comes home from the workers.
    (leak,) = [row for row in rows if row["device"] == "intel-hda"]
    assert leak["bundle"] == str(tmp_path / "bundles" / "intel-hda-leak")
    assert (tmp_path / "bundles" / "intel-hda-leak" / "after.jsonl.gz").is_file()
    assert (tmp_path / "bundles" / "rocker-crash" / "reproduce.sh").is_file()
    with sqlite3.connect(file) as base:
        assert base.execute("select count(*) from rows").fetchone()[0] == len(SOME)


def test_a_cluster_that_is_not_there(qmr: Qmr) -> None:
    with socket_free() as port:
        gone = qmr("hunt", "edu", "--dask", f"tcp://127.0.0.1:{port}")
    assert gone.code == 2
    assert "no dask scheduler answers" in gone.err


class socket_free:
    """A port that is bound and that nobody listens on."""

    def __enter__(self) -> int:
        import socket

        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        return int(self._socket.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def test_rows_of_two_campaigns_meet_by_their_key() -> None:
    assert key(found("a", "leak", "x", "y")) == key(found("a", "leak", "y", "x"))
