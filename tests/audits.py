"""What tests of the audit share."""

from __future__ import annotations

from fakes import FakeMachine

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
