"""Campaigns: kept, resumed, spread over processes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from campaigns import EXPECTED, PLAN, SOME, found, lines, verdicts
from conftest import Qmr

from qmrinspect.campaign import limits
from qmrinspect.campaign.jobs import Done, Plan, plan, run
from qmrinspect.campaign.limits import workers_for
from qmrinspect.campaign.store import Store, baseline_rows
from qmrinspect.campaign.worker import Worker, WorkerDied
from qmrinspect.errors import QmrError, TargetError, UsageError
from qmrinspect.hunt.settings import Job, Settings
from qmrinspect.monitor.connecting import peer_pid
from qmrinspect.monitor.recording import RecordingMonitor
from qmrinspect.report.verdicts import Result, Verdicts

# Kept and resumed ------------------------------------------------------------------

# A worker with a pool that needs no QEMU.
_WORKER = """
from contextlib import nullcontext
from types import SimpleNamespace
from qmrinspect.campaign import worker
pool = SimpleNamespace(do=lambda job: [{"device": job.driver}], close=lambda: None)
worker.VmPool = lambda settings: nullcontext(pool)
worker.main()
"""


@pytest.mark.unit
@pytest.mark.parametrize("listens", [True, False])
def test_a_worker_nobody_listens_to_any_more_says_nothing_of_it(listens: bool) -> None:
    """A Ctrl-C ends the parent while a job is under way: its row has no place to go."""
    read, write = os.pipe()
    if not listens:
        os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-c", _WORKER],
        stdin=subprocess.PIPE,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    sent = f"{json.dumps(Settings().json())}\n{json.dumps(Job('edu').json())}\n"
    said = process.communicate(sent, timeout=60)[1]
    assert (process.returncode, said) == (0, "")
    if listens:
        with os.fdopen(read) as rows:
            assert [json.loads(row) for row in rows] == [
                {"row": {"device": "edu"}},
                {"done": "edu"},
            ]


@pytest.mark.unit
def test_what_a_campaign_was_asked_is_the_same_after_json() -> None:
    settings = Settings(start_options=("usb-bus",), cycles=3, layout="/l")
    data = json.loads(json.dumps(settings.json()))
    # As every campaign and bundle has it since the first one.
    assert (data["hosts"], data["bundle"], data["layout"]) == (["usb-bus"], "", "/l")
    assert data["guest"] == "none" and settings.guest is None
    assert Settings.from_json(data) == settings
    for job in (Job("edu"), Job("EPYC-x86_64-cpu", "EPYC")):
        assert Job.from_json(json.loads(json.dumps(job.json()))) == job
    assert Job("edu").json() == {"driver": "edu", "cpu": ""}


def test_a_campaign_that_is_done_is_not_done_again(campaign: Path, qmr: Qmr) -> None:
    again = qmr("hunt", *SOME, "--json", "--campaign", campaign / "c.sqlite")
    assert verdicts(lines(again.out)) == EXPECTED
    assert again.code == 1
    with Store(str(campaign / "c.sqlite")) as store:
        assert store.left() == 0
        assert len(list(store.rows())) == len(SOME)


def test_a_campaign_with_other_settings_is_refused(campaign: Path, qmr: Qmr) -> None:
    other = qmr("hunt", "edu", "--campaign", campaign / "c.sqlite")
    assert other.code == 2
    assert "other settings" in other.err


@pytest.mark.parametrize("first", [True, False])
def test_error_paths_are_another_campaign(tmp_path: Path, first: bool) -> None:
    """The same devices are not done when only their cycles, or only their error paths, are."""
    jobs = [Job("edu")]
    plans = [Plan(Settings(error_paths=paths, cycles=2), jobs) for paths in (first, not first)]
    with Store(str(tmp_path / "c.sqlite")) as store:
        assert store.begin(plans[0]) == store.begin(plans[0]) == [(0, jobs[0])]
        with pytest.raises(UsageError, match="other settings"):
            store.begin(plans[1])


@pytest.mark.unit
def test_what_has_error_paths_beside_cycles() -> None:
    alone, both = Settings(error_paths=True), Settings(error_paths=True, cycles=5)
    jobs = (Job("edu"), Job("EPYC-x86_64-cpu", "EPYC"), Job("netdev:user"))
    assert [alone.has_error_paths(job) for job in jobs] == [True, True, True]
    assert [both.has_error_paths(job) for job in jobs] == [True, False, False]
    assert not any(Settings(cycles=5).has_error_paths(job) for job in jobs)
    asked = (Settings(), alone, both, Settings(cycles=5))
    assert [settings.has_cycles() for settings in asked] == [True, False, True, True]


def test_a_campaign_survives_kill_and_goes_on(tmp_path: Path, qmr: Qmr) -> None:
    file = tmp_path / "killed.sqlite"
    command = [sys.executable, "-m", "qmrinspect", "hunt", *SOME, "--jobs", "2", "--json"]
    process = subprocess.Popen(
        [*command, "--campaign", str(file)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
    with Store(str(file)) as store:
        kept = list(store.rows())
        left = store.left()
    assert first["device"] in {row["device"] for row in kept}
    assert len(kept) + left == len(SOME)
    done = qmr("hunt", *SOME, "--json", "--campaign", file)
    rows = [row for row in lines(done.out) if "device" in row]
    assert verdicts(rows) == EXPECTED
    assert len(rows) == len(SOME)
    # What was there before is the same, to the microsecond.
    assert kept[0]["states"] in [row["states"] for row in rows]


def test_nothing_is_judged_twice(tmp_path: Path) -> None:
    row = {"device": "edu", "outcome": "clean", "causes": [], "cycle": 1}
    with Store(str(tmp_path / "s.sqlite")) as store:
        assert len(store.begin(PLAN)) == len(SOME)
        assert store.add(Done(4, Job("edu"), [row]))
        assert not store.add(Done(4, Job("edu"), [row]))
        assert len(list(store.rows())) == 1
        failed = Done(0, Job("usb-kbd"), [], TargetError("no VM"))
        assert store.add(failed)
        assert [job.driver for _, job in store.begin(PLAN)] == [n for n in SOME if n != "edu"]


@pytest.mark.unit
def test_a_full_disk_in_the_middle_is_told_and_what_is_done_stays(tmp_path: Path) -> None:
    row = {"device": "edu", "outcome": "leak", "text": "x" * 5000}
    with Store(str(tmp_path / "s.sqlite")) as store:
        store.begin(PLAN)
        assert store.add(Done(4, Job("edu"), [row]))
        # No page more: to SQLite that is a full disk.
        pages = store._base.execute("pragma page_count").fetchone()[0]
        store._base.execute(f"pragma max_page_count = {pages}")
        with pytest.raises(
            TargetError, match="cannot be written: database or disk is full"
        ) as full:
            store.add(Done(0, Job("usb-kbd"), [row] * 9))
        assert full.value.exit_code == 2 and "same command goes on" in full.value.hint
        assert len(list(store.rows())) == 1
        store._base.execute("pragma max_page_count = 1000000")
        assert store.add(Done(0, Job("usb-kbd"), [row] * 9))


@pytest.mark.parametrize("content", [b"", b"no database at all, and longer than a header" * 9])
def test_what_is_no_campaign_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x"
    if not content:
        with pytest.raises(TargetError, match="there is no campaign"):
            Store(str(file), create=False)
        return
    file.write_bytes(content)
    with pytest.raises(TargetError, match="cannot be used as a campaign"):
        Store(str(file))
    with pytest.raises(TargetError, match="neither a campaign"):
        baseline_rows(str(file))


# Workers ---------------------------------------------------------------------------


def test_a_worker_that_is_killed_loses_nothing() -> None:
    killed: list[int] = []

    class Mortal(Worker):
        def do(self, job: Job, timeout: float) -> Iterator[dict[str, Any]]:
            if job.driver == "intel-hda" and not killed:
                killed.append(self.pid)
                os.kill(self.pid, signal.SIGKILL)
            return super().do(job, timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qmrinspect.campaign.jobs.Worker", Mortal)
        done = list(run(PLAN.settings, list(enumerate(PLAN.jobs)), workers=2))
    assert killed
    assert sorted(one.number for one in done) == list(range(len(SOME)))
    assert {one.job.driver: one.rows[-1]["outcome"] for one in done} == EXPECTED


def test_a_worker_that_is_silent_is_given_up() -> None:
    worker = Worker(Settings())
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(WorkerDied):
        list(worker.do(Job("edu"), timeout=0.3))
    worker.close()


def test_the_vm_of_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from qmrinspect.campaign.worker import Worker\n"
        "from qmrinspect.hunt.settings import Job, Settings\n"
        "worker = Worker(Settings())\n"
        "print(next(worker.do(Job('edu'), 60))['outcome'], worker.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False
    )
    outcome, pid = parent.stdout.split()
    assert outcome == "clean"
    handle = None
    try:
        handle = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return
    import select

    assert select.select([handle], [], [], 10)[0]
    os.close(handle)


def test_cpu_models_have_jobs_of_their_own_or_are_named() -> None:
    everything, own = plan(Settings(), [], cpus=True), plan(Settings(), [])
    models = {job.driver for job in everything.jobs if job.cpu}
    assert "EPYC-x86_64-cpu" in models
    assert not everything.models
    assert set(own.models) == models
    assert not any(job.cpu for job in own.jobs)


def test_of_cpu_models_that_end_alike_the_first_is_told() -> None:
    jobs = [Job(f"{name}-cpu", name) for name in "abcd"]
    args = argparse.Namespace(driver=[], expect="", baseline="", junit="")
    rows = [found(job.driver, "leak" if job.cpu != "c" else "clean") for job in jobs]
    results = (Result([row | {"text": "", "objects_left": []}], True) for row in rows)
    lines = "\n".join(Verdicts(args, Plan(Settings(), jobs)).lines(results))
    assert "a-cpu" in lines and "c-cpu" in lines
    assert "b-cpu" not in lines and "d-cpu" not in lines
    assert "2 more CPU models as a-cpu\n4 cycles: 1 clean, 3 leak" in lines


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (Settings(), "3 cycles: 2 clean, 1 crash; 1 refused"),
        # Of many cycles of a device there is one row, or few.
        (Settings(cycles=5), "8 cycles, 3 verdicts: 2 clean, 1 crash; 1 refused"),
        (Settings(error_paths=True), "3 cycles: 2 clean, 1 crash; 1 refused"),
        # The cycles of one device, and two error paths of another.
        (
            Settings(cycles=5, error_paths=True),
            "7 cycles, 3 verdicts: 2 clean, 1 crash; 1 refused",
        ),
    ],
)
def test_cycles_are_counted_and_not_rows(settings: Settings, says: str) -> None:
    def row(device: str, outcome: str, cycle: int) -> Any:
        way = {"error_path": None} if settings.error_paths and device == "b" else {}
        return found(device, outcome) | {"cycle": cycle, "text": "", "objects_left": []} | way

    rows = [[row("a", "clean", 5)], [row("b", "clean", 1), row("b", "crash", 3)]]
    results = (Result(more, True) for more in [*rows, [row("c", "refused", 1)]])
    args = argparse.Namespace(driver=[], expect="", baseline="", junit="")
    jobs = [Job(name, None) for name in "abc"]
    assert says in "\n".join(Verdicts(args, Plan(settings, jobs)).lines(results))


def test_what_to_do_about_a_job_that_failed_is_said_once() -> None:
    lost = QmrError("a worker of the hunt ended with status 1", "run it again")
    for campaign, advice in (("", "run it again"), ("c.sqlite", "what is left")):
        args = argparse.Namespace(driver=[], expect="", baseline="", junit="", campaign=campaign)
        verdicts = Verdicts(args, Plan(Settings(), [Job("a", None)]))
        assert "a was not done: " in "\n".join(verdicts.lines(iter([Result([], True, lost, "a")])))
        with pytest.raises(QmrError) as told:
            verdicts.failed()
        assert str(told.value).endswith(advice)
        assert str(told.value).count("run it again") == 1


def test_the_machine_limits_the_jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert 1 <= workers_for(Settings()) <= 2 * len(os.sched_getaffinity(0))
    assert 1 <= workers_for(Settings(error_paths=True)) <= 3 * len(os.sched_getaffinity(0))
    assert 1 <= workers_for(Settings(guest="kernel:initrd")) <= len(os.sched_getaffinity(0))
    assert workers_for(Settings(), 10_000) < 10_000
    monkeypatch.setattr(limits, "_available", lambda: 3 << 30)
    assert workers_for(Settings(), 64) == 6
    assert workers_for(Settings(guest="kernel:initrd"), 64) == 2
    # A container with one processor and 1 GiB of which half is taken.
    own = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    group = tmp_path / own
    group.mkdir(parents=True, exist_ok=True)
    (group / "cpu.max").write_text("100000 100000\n")
    (group / "memory.max").write_text(f"{1 << 30}\n")
    (group / "memory.current").write_text(f"{1 << 29}\n")
    monkeypatch.setattr(limits, "_CGROUP", tmp_path)
    assert limits.cores() == 1
    assert limits.free_bytes() == 1 << 29
    assert workers_for(Settings(), 64) == 1


# A monitor that fails --------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "words"), [("closed", "monitor"), ("garbled", "does not speak QMP")]
)
def test_a_monitor_that_fails_is_an_error_and_the_campaign_goes_on(
    tmp_path: Path, mode: str, words: str
) -> None:
    names = ("pci-testdev", "edu", "virtio-rng-pci")
    plan = Plan(Settings(), [Job(name) for name in names])
    failed: list[str] = []
    execute = RecordingMonitor.execute

    def fail(
        self: RecordingMonitor, command: str, arguments: Any = None, timeout: float | None = None
    ) -> object:
        if command == "device_add" and arguments["driver"] == "edu" and not failed:
            failed.append(mode)
            if mode == "closed":
                self._socket.close()
            else:
                reader = self._client._reader
                assert reader is not None
                self._loop.call_soon_threadsafe(reader.feed_data, b"\xff\x00 login: \n")
        return execute(self, command, arguments, timeout)

    with pytest.MonkeyPatch.context() as patch, Store(str(tmp_path / "s")) as store:
        patch.setattr(RecordingMonitor, "execute", fail)
        first = list(run(plan.settings, store.begin(plan)))
        for done in first:
            store.add(done)
        (lost,) = [done for done in first if done.error is not None]
        assert lost.job.driver == "edu"
        assert words in str(lost.error)
        assert store.left() == 1
        for done in run(plan.settings, store.begin(plan)):
            store.add(done)
        assert verdicts(list(store.rows())) == dict.fromkeys(names, "clean")


def test_a_monitor_that_is_silent_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordingMonitor, "command_timeout", 0.3)
    execute = RecordingMonitor.execute

    def stand(
        self: RecordingMonitor, command: str, arguments: Any = None, timeout: float | None = None
    ) -> object:
        if command == "device_del":
            os.kill(peer_pid(self._socket), signal.SIGSTOP)
        return execute(self, command, arguments, timeout)

    monkeypatch.setattr(RecordingMonitor, "execute", stand)
    jobs = [Job("edu")]
    (done,) = run(Settings(), list(enumerate(jobs)))
    assert done.rows[-1]["outcome"] == "hang"
    assert "did not answer device_del" in done.rows[-1]["text"]
    assert any(line.startswith("Thread ") for line in done.rows[-1]["backtrace"])
