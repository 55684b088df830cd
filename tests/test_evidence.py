"""What a campaign leaves for others: JUnit, bundles, scripts, replays."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from campaigns import lines
from conftest import Qmr

from qmrinspect.report.junit import write_junit


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
