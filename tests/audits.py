"""What tests of the audit share."""

from __future__ import annotations

from fakes import FakeMachine, FakeObject

from qmrinspect.audit import Finding, Report, check
from qmrinspect.index import Index
from qmrinspect.ledger import Book, open_book


def audit(machine: FakeMachine) -> Report:
    return check(machine.snapshot())


def book(machine: FakeMachine) -> Book:
    """The books under the policy that the machine really follows."""
    return open_book(Index(machine.snapshot()), machine.policy)


def only(report: Report, kind: str) -> Finding:
    (finding,) = [f for f in report.findings if f.kind == kind]
    return finding


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


def quiet(machine: FakeMachine) -> None:
    """Take the network card out of the flat views, as deleting its BAR does."""
    for view in machine.views:
        for regions in (view.ranges, view.sections):
            for region in [r for r in regions if r.owner is machine.nic]:
                regions.remove(region)
                machine.unref(machine.nic)
    if machine.bar.container is machine.pci_memory:
        machine.del_subregion(machine.bar)


def same_owner(machine: FakeMachine, container_first: bool) -> FakeObject:
    """A container and two subregions of one device, as in hw/display/bochs-display.c."""
    device = machine.device("dut", "core")
    if container_first:
        container = machine.region("mmio", device)
    regions = [machine.region(name, device) for name in ("vbe", "qext")]
    if not container_first:
        container = machine.region("mmio", device)
    for region in regions:
        machine.add_subregion(container, region)
    return device


def cross_owner(machine: FakeMachine, child_first: bool) -> FakeObject:
    """The thread's case: A has C_A and the child B, B has R_B, and C_A contains R_B."""
    a = machine.device("dut", "core")
    if child_first:
        b = machine.add_child(a, "b", machine.new("core"))
        c_a = machine.region("C_A", a)
    else:
        c_a = machine.region("C_A", a)
        b = machine.add_child(a, "b", machine.new("core"))
    machine.region("R_B", b, c_a)
    return a
