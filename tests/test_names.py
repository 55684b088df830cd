"""Fields are named by the program's debug information."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qmrinspect.hotplug.vm import Vm
from qmrinspect.index import Index
from qmrinspect.reading import Reader
from qmrinspect.target.process import Process

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.timeout(180)
def test_a_word_in_an_object_has_the_name_of_its_field() -> None:
    command = [sys.executable, str(ROOT / "tools" / "build_qemu.py"), "7.2"]
    built = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    with Vm(built, extra=["-device", "e1000e,id=nic0"]) as vm:
        reader = Reader(Process(vm.pid))
        snapshot = reader.read()
        index = Index(snapshot)
        nic = index.resolve("nic0").address
        found = reader.pointers(snapshot, {nic})
    # PCIBus.devices is no reference: it is what a search finds, and shows by its name.
    names = {pointer.field.partition("[")[0] for pointer in found}
    assert "PCIBus.devices" in names
    assert "MemoryRegion.owner" in names


def test_a_variable_has_its_name() -> None:
    command = [sys.executable, str(ROOT / "tools" / "build_qemu.py"), "7.2"]
    built = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    with Vm(built) as vm:
        reader = Reader(Process(vm.pid))
        snapshot = reader.read()
        found = reader.pointers(snapshot, {Index(snapshot).machine})
    assert "current_machine" in {p.field for p in found if p.place == "variable"}
