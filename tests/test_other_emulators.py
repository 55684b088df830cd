"""The distribution's other emulators, stripped, are read by the same code.

The profiles are of x86 builds; what all emulators share is where it is there.
"""

from __future__ import annotations

import pytest

from qmrinspect.audit import check
from qmrinspect.hotplug.vm import Vm
from qmrinspect.reading import Reader
from qmrinspect.target.process import Process

MACHINES = (
    ("qemu-system-arm", "virt"),
    ("qemu-system-aarch64", "virt"),
    ("qemu-system-ppc64", "pseries"),
    ("qemu-system-riscv64", "virt"),
)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("program", "machine"), MACHINES)
def test_at_least_95_percent_of_the_objects_are_exact(program: str, machine: str) -> None:
    with Vm(program, machine) as vm:
        snapshot = Reader(Process(vm.pid)).read()
    report = check(snapshot)
    assert report.objects > 200
    assert report.exact >= 0.95 * report.objects
    assert not any(finding.kind in ("underflow", "dangling") for finding in report.findings)
