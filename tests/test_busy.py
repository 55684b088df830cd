"""A guest at work gives no false findings.

A Linux guest that reads its disks and sends packets all the time is read again and
again: every request is in flight at some instant, every queue changes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmrinspect.hotplug.vm import Vm
from qmrinspect.reading import Reader
from qmrinspect.target.process import Process

ROOT = Path(__file__).resolve().parent.parent
#: `make soak` takes a thousand.
READINGS = int(os.environ.get("QMR_READINGS", "300"))

DISKS = """
-object iothread,id=io0
-drive if=none,id=d0,driver=null-co,size=64M -device virtio-blk-pci,drive=d0,iothread=io0
-drive if=none,id=d1,driver=null-co,size=64M -device virtio-scsi-pci,id=vs0
-device scsi-hd,drive=d1,bus=vs0.0
-drive if=none,id=d2,driver=null-co,size=64M -device nvme,drive=d2,serial=1
-netdev hubport,hubid=0,id=h0 -device virtio-net-pci,netdev=h0
-netdev hubport,hubid=0,id=h1 -device e1000e,netdev=h1
-device virtio-balloon-pci -device virtio-rng-pci -device virtio-serial-pci
""".split()


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Vm]:
    make = [sys.executable, str(ROOT / "tools" / "make_guest.py")]
    made = subprocess.run(make, capture_output=True, text=True, check=True)
    kernel, initrd = made.stdout.split()
    serial = tmp_path / "serial"
    guest = ["-m", "256", "-kernel", kernel, "-initrd", initrd, "-serial", f"pipe:{serial}"]
    for end in (".in", ".out"):
        subprocess.run(["mkfifo", f"{serial}{end}"], check=True)
    extra = [*guest, "-append", "console=ttyS0 tsc_early_khz=2000000 qmr.io=1", *DISKS]
    with Vm(machine="pc", extra=extra, stopped=False) as vm, open(f"{serial}.out") as console:
        # The guest says so when its disks are being read.
        for line in console:
            if "QMR-GUEST-READY" in line:
                break
        else:
            pytest.fail(f"the guest did not boot: {vm.exit_text()}")
        yield vm


@pytest.mark.timeout(1500)
def test_no_finding_that_an_idle_vm_does_not_have(busy: Vm) -> None:
    reader = Reader(Process(busy.pid))
    in_flight = 0
    for number in range(READINGS):
        report = reader.check()
        bad = [f.text for f in report.findings if f.severity != "note"]
        assert not bad, f"reading {number}: {bad}"
        in_flight += any(e.kind in ("queue-element", "scsi-request") for e in report.book.edges)
    # It was a busy guest: in many of the readings something was on its way.
    assert in_flight > READINGS // 100
    assert busy.alive()
