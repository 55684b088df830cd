"""What declared fields, properties and containers lead to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qmrinspect.heap.model import FREED, Block
from qmrinspect.search import pointed, stale
from qmrinspect.search.pointed import pointers
from qmrinspect.search.stale import Where, _graph, _pointed
from qmrinspect.snapshot import Prop

pytestmark = pytest.mark.unit

A, B, LIVE, GONE = 0x1000, 0x2000, 0x3000, 0x4000


def test_a_declared_field_leads_to_what_must_not_be_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    read = {A: [SimpleNamespace(holder=A, value=GONE)], B: []}
    seen = []

    def follow(context: Any, address: int, way: str) -> Any:
        seen.append(way)
        return read[address]

    monkeypatch.setattr(pointed, "follow", follow)
    context: Any = SimpleNamespace(is_a=lambda type, other: (type, other) == ("PCIE", "PCI"))
    objects: Any = {A: SimpleNamespace(type="PCIE"), B: SimpleNamespace(type="irq")}
    found = [(row.kind, target) for row, _, _, target in pointers(context, objects)]
    assert found == [("bus-list", GONE)] * 2
    assert seen == ["PCIBus.child", "PCIBus.sibling"]


def test_the_graph_leads_to_what_was_freed() -> None:
    def prop(holder: int, target: int, role: str) -> Prop:
        return Prop(holder, "it", target, role, "instance")

    freed = SimpleNamespace(
        freed=lambda at: at in (GONE, B), exact=True, at=lambda at: Block(GONE, 64, FREED)
    )
    live: Any = SimpleNamespace(heap=freed, alive=lambda at: True, is_stack=lambda at: False)
    region: Any = SimpleNamespace(address=A, subregions=(GONE, LIVE), alias=0)
    props = [
        prop(A, GONE, "child"),
        prop(A, GONE, "weak"),
        prop(A, LIVE, "child"),  # alive
        prop(A, 0, "strong"),
        prop(B, GONE, "child"),  # what was freed leads nowhere
    ]
    snapshot: Any = SimpleNamespace(props=props, regions={A: region})
    found = {(row.kind, row.address, row.target) for row in _graph(snapshot, live, Where())}
    assert found == {("child", A, GONE), ("link", A, GONE), ("subregion", A, GONE)}
    # Nor does what is outside the tree, and what was freed before may be left over.
    assert not [*_graph(snapshot, live, Where(outside=[(A, A + 8)]))]
    assert not [*_graph(snapshot, live, Where(freed=[(B, B + 8)]))]


def test_a_field_leads_to_a_block_that_was_a_mapping_and_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """malloc gives a mapping of its own to what is large, and only blocks counted."""
    row: Any = SimpleNamespace(kind="chardev-handler")
    targets = (GONE, LIVE, B)
    rows = [(row, A, A + 8 * i, target) for i, target in enumerate(targets)]
    monkeypatch.setattr(stale, "pointers", lambda context, objects: iter(rows))
    blocks = {B: Block(B, 64, FREED)}
    heap = SimpleNamespace(freed=lambda at: at in blocks or None, exact=True, at=blocks.get)
    live: Any = SimpleNamespace(heap=heap, alive=lambda at: at == LIVE, is_stack=lambda at: False)
    context: Any = SimpleNamespace(live=live)
    snapshot: Any = SimpleNamespace(objects={})

    def found(where: Where) -> list[tuple[int, int, int]]:
        return [(s.target, s.block, s.size) for s in _pointed(context, snapshot, where)]

    assert found(Where()) == [(GONE, GONE, 0), (B, B, 64)]
    assert found(Where(freed=[(GONE, GONE + 8)])) == [(GONE, GONE, 0)]
    assert found(Where(freed=[], outside=[(LIVE, LIVE + 8)])) == [(LIVE, LIVE, 0)]
