"""Snapshots of real QEMUs of each policy, audited without any QEMU.

``tests/make_golden.py`` makes them again.
"""

from __future__ import annotations

import functools

import pytest
from make_golden import GOLDEN, QEMUS, SIZE_MAX

from qmrinspect.audit import Report, check, why
from qmrinspect.audit.cause import causes
from qmrinspect.audit.diff import diff
from qmrinspect.store import load

pytestmark = pytest.mark.unit

POLICY = {
    "stock-7.2": "owner-ref",
    "10.0-owner-ref": "owner-ref",
    "10.0-subregion-ref": "subregion-ref",
    "10.0-owner-shared": "owner-shared",
}

# What remains of each device: its own count, the cause, and the references that are the case.
# In 10.0.13 the link of xhci-core to its parent is fixed; the other two are by the policy.
LEAKS: dict[str, dict[str, tuple[int, str, list[str]]]] = {
    "stock-7.2": {
        "intel-hda": (2, "same-owner-subregions", ["intel-hda", "intel-hda-alias"]),
        "bochs-display": (
            3,
            "same-owner-subregions",
            ["bochs dispi interface", "edid", "qemu extended regs"],
        ),
        "qemu-xhci": (1, "link-cycle", ["host"]),
    },
    "10.0-owner-ref": {
        "intel-hda": (2, "same-owner-subregions", ["intel-hda", "intel-hda-alias"]),
        "bochs-display": (
            3,
            "same-owner-subregions",
            ["bochs dispi interface", "edid", "qemu extended regs"],
        ),
    },
    "10.0-subregion-ref": {},
    "10.0-owner-shared": {},
}

NAMES = sorted(QEMUS)


@functools.cache
def report(name: str, state: str) -> Report:
    return check(load(GOLDEN / f"{name}-{state}.jsonl.gz"))


def test_every_golden_is_there_and_small() -> None:
    wanted = {f"{name}-{state}.jsonl.gz" for name in QEMUS for state in ("idle", "unplugged")}
    files = {path.name: path for path in GOLDEN.iterdir()}
    assert set(files) == wanted
    assert all(path.stat().st_size <= SIZE_MAX for path in files.values())
    assert set(POLICY) == set(LEAKS) == set(QEMUS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("state", ("idle", "unplugged"))
def test_the_books_balance(name: str, state: str) -> None:
    found = report(name, state)
    assert found.exact == found.objects > 250
    assert found.observed == found.explained + found.by_rule
    assert found.by_rule <= found.observed * (3 if name.startswith("stock") else 1) // 100
    assert not found.book.index.snapshot.notes


@pytest.mark.parametrize("name", NAMES)
def test_an_idle_machine_has_no_findings(name: str) -> None:
    assert not report(name, "idle").findings


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("state", ("idle", "unplugged"))
def test_the_policy_is_told(name: str, state: str) -> None:
    verdict = report(name, state).verdict
    assert verdict.policy.name == POLICY[name]
    assert verdict.supporting >= 15 and verdict.opposing == 0
    assert not verdict.mixed and not verdict.undecided
    others = [n for n in verdict.votes if verdict.votes[n] != verdict.votes[POLICY[name]]]
    assert all(verdict.votes[n] == (0, verdict.supporting) for n in others)


@pytest.mark.parametrize("name", NAMES)
def test_what_leaked_is_found_with_its_cause(name: str) -> None:
    found = report(name, "unplugged")
    book = found.book
    objects = book.index.snapshot.objects
    orphans = {objects[f.address].type: f for f in found.findings if f.kind == "orphan"}
    assert set(orphans) == set(LEAKS[name])
    for type_name, (count, cause, names) in LEAKS[name].items():
        finding = orphans[type_name]
        assert finding.severity == "error"
        assert finding.observed == finding.expected == count
        (own,) = [c for c in causes(book, finding.address, ()) if c.object == finding.address]
        assert own.name == cause
        assert sorted(edge.field.split('"')[1] for edge in own.edges) == names
        assert all(name in finding.text for name in names)
    assert {f.kind for f in found.findings} <= {"orphan", "cycle"}
    cycles = {objects[f.address].type for f in found.findings if f.kind == "cycle"}
    assert cycles == set(LEAKS[name])


def test_xhci_core_of_7_2_holds_itself_as_well() -> None:
    found = report("stock-7.2", "unplugged")
    (finding,) = [f for f in found.findings if f.kind == "orphan" and "xhci" in f.text]
    members = [
        a
        for a, o in found.book.index.snapshot.objects.items()
        if o.type == "base-xhci" and o.parent == finding.address
    ]
    (cause,) = [c for c in causes(found.book, finding.address, members) if c.object == members[0]]
    assert cause.name == "same-owner-subregions" and len(cause.edges) == 12


@pytest.mark.parametrize("name", NAMES)
def test_why_of_a_leaked_device_is_a_cycle(name: str) -> None:
    found = report(name, "unplugged")
    for finding in (f for f in found.findings if f.kind == "orphan"):
        answer = why(found.book, finding.address)
        assert answer.root == 0
        assert finding.address in answer.cycle
        assert answer.chain[-1].target == finding.address
    for address in found.book.index.snapshot.devices:
        if found.book.index.in_tree(address):
            assert why(found.book, address).chain


@pytest.mark.parametrize("name", NAMES)
def test_diff_shows_what_the_unplugs_left(name: str) -> None:
    idle, after = report(name, "idle").book, report(name, "unplugged").book
    found = diff(idle, after)
    left = {after.index.snapshot.objects[a].type for a in found.appeared}
    assert left & {"intel-hda", "bochs-display", "qemu-xhci"} == set(LEAKS[name])
    # The machine's own devices came through it with the references that they had.
    assert not found.changed
    assert not any(address in idle.index.snapshot.devices for address in found.gone)
