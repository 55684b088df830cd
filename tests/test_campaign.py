"""Campaigns: kept, resumed, compared, spread over processes, reported and replayed."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium
from conftest import Qmr

from qmrinspect.errors import TargetError, UsageError
from qmrinspect.hunt import limits
from qmrinspect.hunt.campaign import Done, Plan, plan, run
from qmrinspect.hunt.expect import Expectations
from qmrinspect.hunt.limits import workers_for
from qmrinspect.hunt.rows import key
from qmrinspect.hunt.settings import Job, Settings
from qmrinspect.hunt.store import Store, baseline_rows, compare
from qmrinspect.hunt.worker import Worker, WorkerDied
from qmrinspect.monitor.connecting import peer_pid
from qmrinspect.monitor.recording import RecordingMonitor
from qmrinspect.report.junit import write_junit
from qmrinspect.report.page import page
from qmrinspect.report.verdicts import Result, Verdicts

ROOT = Path(__file__).resolve().parent.parent

SOME = ("usb-kbd", "intel-hda", "virtio-net-pci", "rocker", "edu", "usb-tablet")
PLAN = Plan(Settings(hosts=("usb-bus",)), [Job(name) for name in SOME])


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def verdicts(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {row["device"]: row["outcome"] for row in rows if "device" in row}


EXPECTED = {
    "usb-kbd": "clean",
    "intel-hda": "leak",
    "virtio-net-pci": "clean",
    "rocker": "crash",
    "edu": "clean",
    "usb-tablet": "clean",
}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory, qmr: Qmr) -> Path:
    """Return a directory with a campaign that was done by two workers."""
    place = tmp_path_factory.mktemp("campaign")
    done = qmr(
        *("hunt", *SOME, "--jobs", 2, "--json", "--campaign", place / "c.sqlite"),
        *("--bundle", place / "bundles", "--junit", place / "junit.xml"),
    )
    assert done.code == 1
    assert done.err == ""
    assert verdicts(lines(done.out)) == EXPECTED
    (place / "hunt.jsonl").write_text(done.out)
    return place


# Kept and resumed ------------------------------------------------------------------


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
        patch.setattr("qmrinspect.hunt.campaign.Worker", Mortal)
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
        "from qmrinspect.hunt.worker import Worker\n"
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


def test_the_machine_limits_the_jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert 1 <= workers_for(Settings()) <= 2 * len(os.sched_getaffinity(0))
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
        self: RecordingMonitor, command: str, arguments: Any = None, timeout: float = 10.0
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
    monkeypatch.setattr("qmrinspect.hotplug.unplug.STEP_TIMEOUT", 0.3)
    execute = RecordingMonitor.execute

    def stand(
        self: RecordingMonitor, command: str, arguments: Any = None, timeout: float = 10.0
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


# Compared --------------------------------------------------------------------------


def found(device: str, outcome: str = "leak", *causes: str) -> dict[str, Any]:
    return {"device": device, "outcome": outcome, "causes": list(causes), "cycle": 1}


def test_findings_are_new_fixed_or_known() -> None:
    before = [found("a", "leak", "x"), found("b", "crash"), found("c"), found("d", "clean")]
    now = [found("a", "leak", "x"), found("b", "clean"), found("d", "leak", "y"), found("e")]
    compared = compare(now, before)
    assert [row["device"] for row in compared["known"]] == ["a"]
    assert [row["device"] for row in compared["fixed"]] == ["b"]  # c was not hunted again
    assert [row["device"] for row in compared["new"]] == ["d", "e"]


def test_only_new_findings_fail(campaign: Path, qmr: Qmr) -> None:
    for baseline in ("c.sqlite", "hunt.jsonl"):
        known = qmr("hunt", "intel-hda", "--json", "--baseline", campaign / baseline)
        rows = lines(known.out)
        assert rows[0]["status"] == "known"
        assert rows[-1]["compared"]["new"] == []
        assert known.code == 0
    new = qmr("hunt", "bochs-display", "--baseline", campaign / "c.sqlite")
    assert new.code == 1
    assert "1 new" in new.out


def test_expected_findings_have_a_reason_and_unused_rules_are_reported(
    tmp_path: Path, qmr: Qmr
) -> None:
    rules = tmp_path / "expect.json"
    rules.write_text(
        json.dumps(
            [
                {"device": "intel-*", "cause": "same-owner-*", "reason": "fixed by ac7a892fd3"},
                {"device": "gone", "reason": "was fixed long ago"},
            ]
        )
    )
    done = qmr("hunt", "intel-hda", "--expect", rules)
    assert done.code == 0
    assert "expected: fixed by ac7a892fd3" in done.out
    assert "was fixed long ago" in done.out
    assert done.out.count("no finding matches") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("{}", "no list"),
        ('[{"device": "x"}]', "has no reason"),
        ('[{"devise": "x", "reason": "y"}]', "no use for devise"),
    ],
)
def test_a_wrong_rule_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "rules"
    file.write_text(text)
    with pytest.raises(UsageError, match=words):
        Expectations(str(file))


# Taken away ------------------------------------------------------------------------


def test_junit_counts_what_failed(campaign: Path) -> None:
    suite = ElementTree.parse(campaign / "junit.xml").getroot()
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "6",
        "failures": "2",
        "skipped": "0",
    }
    failures = {case.get("name"): case.find("failure") for case in suite.findall("testcase")}
    assert {name for name, failure in failures.items() if failure is not None} == {
        "intel-hda",
        "rocker",
    }
    assert "intel-hda-alias" in (failures["intel-hda"].text or "")  # type: ignore[union-attr]
    said = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert said["machine"].startswith("pc-i440fx")
    assert said["qemu"] and said["build-id"] and said["program"] and said["qmr"]
    attached = [out.text or "" for out in suite.iter("system-out")]
    assert len(attached) == 2
    for line in "\n".join(attached).splitlines():
        name = re.fullmatch(r"\[\[ATTACHMENT\|(.*)\]\]", line)
        assert name is not None and Path(name[1]).is_file()


def test_junit_names_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"machine": "pc", "bus": "PCI", "device": "edu", "outcome": "clean", "text": ""}
    row |= {"causes": [], "plug_us": 1, "unplug_us": 1, "judge_us": 1}
    for variable in ("CI_COMMIT_SHA", "GITHUB_SHA", "GIT_COMMIT"):
        monkeypatch.delenv(variable, raising=False)

    def commits(version: str) -> list[str | None]:
        write_junit(str(tmp_path / "j"), [{**row, "qemu_version": version}])
        found = ElementTree.parse(tmp_path / "j").getroot().iter("property")
        return [one.get("value") for one in found if one.get("name") == "commit"]

    assert commits("10.0.50 (v10.0.0-1234-gdeadbeef12)") == ["deadbeef12"]
    assert commits("7.2.22 (Debian 1:7.2+dfsg-7)") == []
    monkeypatch.setenv("GITHUB_SHA", "0123abc")
    assert commits("7.2.22") == ["0123abc"]
    assert commits("10.0.50 (v10.0.0-1234-gdeadbeef12)") == ["deadbeef12"]


def test_a_bundle_has_the_evidence(campaign: Path, qmr: Qmr) -> None:
    bundles = campaign / "bundles"
    assert {place.name for place in bundles.iterdir()} == {"intel-hda-leak", "rocker-crash"}
    leak = bundles / "intel-hda-leak"
    assert "qemu-system-x86_64" in (leak / "command").read_text()
    sent = [m["execute"] for m in lines((leak / "transcript.jsonl").read_text()) if "execute" in m]
    assert sent.index("device_add") < sent.index("device_del")
    after = qmr("--snapshot", leak / "after.jsonl.gz", "orphans", "--json")
    assert after.code == 1
    assert "intel-hda" in after.out
    assert qmr("--snapshot", leak / "before.jsonl.gz", "orphans").code == 0


def test_the_script_reproduces_with_qemu_alone(campaign: Path) -> None:
    bundles = campaign / "bundles"
    crash = subprocess.run(
        ["sh", bundles / "rocker-crash" / "reproduce.sh"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert crash.returncode == 128 + signal.SIGABRT
    assert "msix_vector_unuse" in crash.stderr
    leak = subprocess.run(
        ["sh", bundles / "intel-hda-leak" / "reproduce.sh"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert leak.returncode == 1
    assert "DEVICE_DELETED" not in leak.stdout
    # A QEMU in which it does not leak, and one that has no such device.
    script = (bundles / "intel-hda-leak" / "reproduce.sh").read_text()
    for other, code in (("edu", 0), ("no-such-device", 2)):
        changed = bundles / f"{other}.sh"
        changed.write_text(script.replace('"driver": "intel-hda"', f'"driver": "{other}"'))
        done = subprocess.run(["sh", changed], capture_output=True, check=False, timeout=30)
        changed.unlink()
        assert done.returncode == code
    readme = (bundles / "intel-hda-leak" / "README.md").read_text()
    files = {file.name for file in (bundles / "intel-hda-leak").iterdir()} - {"README.md"}
    assert all(f"`{name}`" in readme for name in files)
    assert "same-owner-subregions" in readme and "1 it leaks" in readme


def test_the_script_makes_directories_and_tells_of_programs(tmp_path: Path, qmr: Qmr) -> None:
    found = qmr("hunt", "cxl-type3", "x-pci-proxy-dev", "--bundle", tmp_path)
    assert found.code == 1
    said = {}
    for name in ("cxl-type3-leak", "x-pci-proxy-dev-partial-leak"):
        said[name] = subprocess.run(
            ["sh", tmp_path / name / "reproduce.sh"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    leak = said["cxl-type3-leak"]
    assert leak.returncode == 1
    # Without the program behind it, it cannot be plugged.
    assert said["x-pci-proxy-dev-partial-leak"].returncode == 2
    # The device that leaks keeps its memory; nothing else fails.
    failed = [line for line in leak.stdout.splitlines() if '"error"' in line]
    assert len(failed) == 1
    assert "-memory' is in use" in failed[0]
    assert "DEVICE_DELETED" not in leak.stdout
    assert "behind it was remote-device; see qmr replay" in (
        said["x-pci-proxy-dev-partial-leak"].stderr
    )


def test_replay_suits_git_bisect(campaign: Path, qmr: Qmr, tmp_path: Path) -> None:
    leak = campaign / "bundles" / "intel-hda-leak"
    assert qmr("replay", leak).code == 1
    broken = qmr("replay", leak, "--qemu", "/nonexistent/qemu", "--json")
    assert broken.code == 125
    assert broken.json["verdict"] == "skip"
    # A build in which the device is sound: another device under its name.
    fixed = tmp_path / "bundle"
    shutil.copytree(leak, fixed)
    verdict = json.loads((fixed / "verdict.json").read_text())
    verdict["job"]["driver"] = "edu"
    (fixed / "verdict.json").write_text(json.dumps(verdict))
    good = qmr("replay", fixed)
    assert good.code == 0
    assert "good" in good.out
    assert qmr("replay", tmp_path).code == 2


# The page --------------------------------------------------------------------------


def test_the_page_works_in_a_browser_without_a_network(campaign: Path, qmr: Qmr) -> None:
    file = campaign / "report.html"
    made = qmr("report", campaign / "c.sqlite", "-o", file, "--baseline", campaign / "c.sqlite")
    assert made.code == 0
    text = file.read_text()
    assert not re.search(r"\ssrc=|<link|@import|url\(", text)
    links = re.findall(r"href=[\"']([^\"'#][^\"']*)", text)
    for link in links:
        assert link.startswith("https://gitlab.com/qemu-project/") or (campaign / link).is_file()
    assert "bundles/intel-hda-leak/reproduce.sh" in links
    measure = (
        "<script>addEventListener('load', () => { const seen = {};"
        "const inside = (a, b) => a.left >= b.left - 1 && a.top >= b.top - 1 &&"
        "a.right <= b.right + 1 && a.bottom <= b.bottom + 1;"
        "for (const s of document.querySelectorAll('svg.graph')) {"
        "const nodes = [...s.querySelectorAll('.box')], box = n =>"
        "n.querySelector('rect').getBoundingClientRect();"
        "seen[s.closest('section').id] = [nodes.length, s.querySelectorAll('.arrow').length,"
        "nodes.every(n => inside(box(n), s.getBoundingClientRect()) &&"
        "[...n.querySelectorAll('text')].every(t => inside(t.getBoundingClientRect(), box(n)))),"
        "[...s.querySelectorAll('.arrow text')].every(t => nodes.every(n => {"
        "const a = t.getBoundingClientRect(), b = box(n);"
        "return a.right < b.left || b.right < a.left || a.bottom < b.top || b.bottom < a.top;}))];}"
        "document.title = JSON.stringify(seen); })</script></body>"
    )
    file.write_text(text.replace("</body>", measure))
    dom = chromium("--dump-dom", file.as_uri())
    rows = re.findall(r'<td class="mono">(?:<a href="#finding-\d+">)?([\w:-]+)', dom)
    assert set(SOME) <= set(rows)
    title = re.search(r"<title>(\{.*?\})</title>", dom)
    assert title is not None
    graphs = json.loads(title[1].replace("&quot;", '"'))
    assert len(graphs) == 1  # a crash leaves no references to draw
    ((nodes, arrows, inside, apart),) = graphs.values()
    assert nodes == 2
    assert arrows == 2  # the container holds the device, and the way back
    assert inside
    assert apart


def test_the_page_plots_growth_and_escapes_what_the_vm_says() -> None:
    row = {
        **found("<script>alert(1)</script>", "leak", "same-owner-subregions"),
        "bus": "PCI",
        "machine": "pc",
        "qemu_version": "7.2",
        "text": "a & b",
        "case": [],
        "objects_left": [],
        "plug_us": 1,
        "unplug_us": 1,
        "growth": {
            "cycles": 2,
            "types": {"x": {"total": 2, "once": 0, "per_cycle": 1, "exact": True}},
            "references": {},
            "samples": [[0, 10, 20], [1, 11, 23], [2, 12, 26]],
        },
    }
    text = page("a <title>", [row])
    assert "<script>" not in text
    assert text.count("<polyline") == 2
    assert "Growth in 2 cycles" in text
    still = {**row, "outcome": "clean", "growth": {**row["growth"], "types": {}}}
    text = page("many cycles", [still])
    assert text.count("<polyline") == 2
    assert "Nothing grew" in text


def test_a_check_becomes_a_page(campaign: Path, qmr: Qmr) -> None:
    file = campaign / "check.html"
    leak = campaign / "bundles" / "intel-hda-leak" / "after.jsonl.gz"
    assert qmr("--snapshot", leak, "report", "-o", file).code == 1
    text = file.read_text()
    assert "intel-hda" in text
    assert "<svg" in text


# On a cluster ----------------------------------------------------------------------


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


# The three policies ----------------------------------------------------------------

SAME_OWNER = {"intel-hda", "bochs-display", "cxl-downstream", "qemu64-x86_64-cpu"}
#: They leak for other reasons, or not at all.
ALIKE = {"piix3-usb-uhci", "i82801b11-bridge", "e1000e", "usb-kbd"}


def built(policy: str) -> str:
    """Return a QEMU 10.0 that follows a policy."""
    tool = [sys.executable, str(ROOT / "tools" / "build_qemu.py"), "10.0", "--policy", policy]
    made = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout.split()[-1]


@pytest.mark.timeout(150)
def test_two_campaigns_compared_say_what_a_policy_fixes(tmp_path: Path, qmr: Qmr) -> None:
    names = sorted(SAME_OWNER | ALIKE)
    before = tmp_path / "owner-ref.sqlite"
    first = qmr("hunt", *names, "--qemu", built("owner-ref"), "--campaign", before, "--jobs", 2)
    assert first.code == 1
    for policy in ("subregion-ref", "owner-shared"):
        second = qmr(
            *("hunt", *names, "--qemu", built(policy), "--jobs", 2, "--json"),
            *("--baseline", before),
        )
        compared = lines(second.out)[-1]["compared"]
        assert {device for device, *_ in compared["fixed"]} == SAME_OWNER
        # A CPU that goes leaves its notifier in machine_init_done_notifiers: nobody calls
        # qemu_remove_machine_init_done_notifier() for what tcg_cpu_realizefn() adds
        # (target/i386/tcg/system/tcg-cpu.c), and the next CPU's entry writes to the freed one.
        assert compared["new"] == [["qemu64-x86_64-cpu", "stale", ""]]
        assert {device for device, *_ in compared["known"]} == {
            "piix3-usb-uhci",
            "i82801b11-bridge",
        }
        assert second.code == 1
        (cpu,) = [row for row in lines(second.out) if row.get("device", "").endswith("-cpu")]
        (stale,) = cpu["stale"]
        assert (stale["kind"], stale["function"]) == ("notifier", "tcg_cpu_machine_done")
        assert stale["freed"]
        assert cpu["states"]["finalized_us"]
        if policy == "owner-shared":
            # Only the cache of flat views held it, until the topology was changed.
            assert "it went when the topology changed" in cpu["text"]


def test_a_refused_device_may_leave_something_behind(qmr: Qmr) -> None:
    # virtio_pci_realize() of 10.0 makes an address space that its error path forgets.
    found = qmr("hunt", "virtio-input-host-pci", "--qemu", built("owner-ref"), "--json")
    row = lines(found.out)[0]
    assert row["outcome"] == "leak"
    assert row["causes"] == ["address-space-root"]
    assert row["step"] == "device_add"
    assert "was refused" in row["note"]
    assert found.code == 1
