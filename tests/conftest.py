"""Shared between the tests: QEMUs to look at, and the command line as users have it.

A QEMU that is missing fails the tests that need it; none is ever skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qmrinspect.fronts.shell import cli
from qmrinspect.hotplug.vm import Vm

# A test that needs a QEMU which is not built says so, and builds none.
os.environ["QMR_BUILD_QEMU"] = "never"

#: Devices that every stock VM has, by id.
DEVICES = (
    *("-device", "virtio-net-pci,id=nic0"),
    *("-device", "qemu-xhci,id=xhci0"),
    *("-device", "usb-tablet,id=tab0,bus=xhci0.0"),
    *("-device", "virtio-serial-pci,id=serial0"),
)


def pytest_report_header() -> str:
    """Say what this machine lacks: what is not tried is not silently left out."""
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "KVM: yes"
    return "KVM: no /dev/kvm here that may be opened, so that no test tries what is KVM's alone"


def stock_qemu(version: str) -> str:
    """Return a QEMU of tools/stock_qemu.py."""
    tool = Path(__file__).resolve().parent.parent / "tools" / "stock_qemu.py"
    command = ["/usr/bin/python3", str(tool), version]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    return made.stdout.split()[-1]


#: What people have reported is tried on each of these.
RELEASES = ("7.2", "10.0", "11.1")


@cache
def release(version: str) -> str:
    """Return the QEMU of a release, as distributions have it: stripped."""
    return "qemu-system-x86_64" if version == "7.2" else stock_qemu(version)


@pytest.fixture
def no_layout_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No layout cache of the user's, no debuginfod."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)


@pytest.fixture(autouse=True)
def _without_programs(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Take QEMU and GDB away from a test that is marked ``unit``."""
    if request.node.get_closest_marker("unit") is not None:
        monkeypatch.setenv("PATH", str(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def stock_vm() -> Iterator[Vm]:
    """Return the distribution's QEMU with some devices; tests must leave it as it is."""
    with Vm(machine="pc", extra=("-name", "guest=stock,debug-threads=on", *DEVICES)) as vm:
        yield vm


@pytest.fixture
def fresh_vm() -> Iterator[Vm]:
    """Return one that a test may plug into and leak in."""
    with Vm(machine="pc", extra=("-name", "fresh", *DEVICES)) as vm:
        yield vm


@pytest.fixture(scope="session")
def leaky() -> Iterator[Vm]:
    """Return a VM in which hda0 leaked, and another device has its id."""
    with Vm(machine="pc", extra=DEVICES) as vm:
        words = ("plug", "intel-hda", "id=hda0"), ("unplug", "hda0")
        for line in (*words, ("plug", "bochs-display", "id=hda0", "--force")):
            done = subprocess.run(
                [sys.executable, "-m", "qmrinspect", str(vm.pid), *line],
                capture_output=True,
                check=False,
            )
            assert done.returncode in (0, 1), done.stderr
        yield vm


@pytest.fixture(scope="session")
def saved(leaky: Vm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a snapshot of that VM."""
    file = tmp_path_factory.mktemp("saved") / "leaky"
    subprocess.run(
        [sys.executable, "-m", "qmrinspect", str(leaky.pid), "save", str(file)],
        check=True,
        capture_output=True,
    )
    return file


class Ran(NamedTuple):
    """What a run of qmr left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Parse what was printed."""
        return json.loads(self.out)


Qmr = Callable[..., Ran]


@pytest.fixture(scope="session")
def qmr() -> Qmr:
    """Return a function that runs qmr as a process of its own."""

    def run(*args: object, env: dict[str, str] | None = None) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "qmrinspect", *map(str, args)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
            env={**os.environ, **(env or {})},
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Qmr:
    """Return a function that runs qmr in this process, which takes a tenth of the time."""

    def run(*args: object) -> Ran:
        capsys.readouterr()
        code = cli.main([str(arg) for arg in args])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def campaign(tmp_path_factory: pytest.TempPathFactory, qmr: Qmr) -> Path:
    """Return a directory with a campaign that was done by two workers."""
    from campaigns import EXPECTED, SOME, lines, verdicts

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
