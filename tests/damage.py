"""What tests of damaged memory share."""

from __future__ import annotations

import time

from fakes import FakeMachine
from faketarget import FakeTarget

from qmrinspect.audit import check
from qmrinspect.snapshot import Snapshot
from qmrinspect.walk import take

# A walk of this small machine takes some 10 ms.  What does not end takes for ever.
LIMIT_S = 10.0


def read(target: FakeTarget) -> Snapshot:
    begin = time.monotonic()
    snapshot, _ = take(target, target.layout)
    check(snapshot)
    assert time.monotonic() - begin < LIMIT_S
    return snapshot


def texts(snapshot: Snapshot) -> str:
    return "; ".join(note.text for note in snapshot.notes)


def has_others(machine: FakeMachine, snapshot: Snapshot, *damaged: object) -> None:
    """Everything is there but what was damaged."""
    spared = {id(obj) for obj in damaged}
    wanted = {obj.address for obj in machine.objects if id(obj) not in spared}
    assert wanted <= snapshot.objects.keys()
