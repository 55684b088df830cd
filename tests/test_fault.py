"""A wrong count is found on the object that has it, and nothing else is said.

The counts of a stopped VM are changed one at a time in its own memory.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator

import pytest

from qmrinspect.audit import check
from qmrinspect.hotplug.vm import Vm
from qmrinspect.reading import Reader
from qmrinspect.target.process import Process

OBJECTS = 200
# Object.ref, include/qom/object.h; the same in every QEMU with an atomic count.
AT_REF = 24

DEVICES = "virtio-net-pci e1000e nvme,serial=1 qemu-xhci usb-tablet intel-hda virtio-serial-pci"


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    extra = [word for device in DEVICES.split() for word in ("-device", device)]
    with Vm(machine="q35", extra=extra) as running:
        yield running


@pytest.mark.timeout(240)
def test_each_wrong_count_is_found_and_nothing_else(vm: Vm) -> None:
    reader = Reader(Process(vm.pid))
    before = check(reader.read())
    assert before.exact == before.objects
    known = {(finding.kind, finding.address) for finding in before.findings}
    chosen = random.Random(20150).sample(sorted(before.book.index.snapshot.objects), OBJECTS)
    memory = os.open(f"/proc/{vm.pid}/mem", os.O_RDWR)
    try:
        for number, address in enumerate(chosen):
            step = 1 if number % 2 else -1
            (count,) = struct.unpack("<I", os.pread(memory, 4, address + AT_REF))
            os.pwrite(memory, struct.pack("<I", count + step), address + AT_REF)
            report = check(reader.read())
            os.pwrite(memory, struct.pack("<I", count), address + AT_REF)
            found = [f for f in report.findings if (f.kind, f.address) not in known]
            label = before.book.index.label(address)
            kind = "unexplained" if step > 0 else "underflow"
            assert [(f.kind, f.address) for f in found] == [(kind, address)], label
            assert found[0].observed - found[0].expected == step, label
            assert found[0].references or step > 0, label
    finally:
        os.close(memory)
    assert check(reader.read()).exact == before.objects
