"""What lies in memory that nobody cleared, or uses any more, explains nothing and is no finding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from audits import book
from fakes import FakeKid, FakeMachine

from qmrinspect.heap.live import Live
from qmrinspect.heap.model import LIVE, NOT_KNOWN, Block
from qmrinspect.search.words import Words
from qmrinspect.target.image import Image
from qmrinspect.target.image import Mapping as Mapped
from qmrinspect.walk import readers
from qmrinspect.walk.shapes import SHAPES

pytestmark = pytest.mark.unit

PROGRAM, HEAP, GONE = 0x5500_0000_0000, 0x5600_0000_0000, 0x5600_0001_0000
A, B, C = HEAP + 0x100, HEAP + 0x200, HEAP + 0x300


def test_a_stack_whose_guard_is_no_mapping_is_one() -> None:
    """glibc 2.42 and later: one mapping a stack, and one as large that a thread has left."""
    size, other = 0x801000, 0x90000
    at = [0x7F00_0000_0000, 0x7F00_1000_0000, 0x7F00_2000_0000]
    mappings = [
        *(Mapped(start, start + size, "rw-p", 0, "") for start in at[:2]),
        Mapped(at[2], at[2] + other, "rw-p", 0, ""),
    ]
    pointer = at[0] + 0x700000
    live = Live(Image([]), mappings, [pointer])
    assert live.is_stack(at[0] + 8) and live.is_stack(at[1] + 8) and not live.is_stack(at[2] + 8)
    assert live.alive(pointer + 64) is True
    assert live.alive(pointer - 4096) is False
    assert live.alive(at[1] + 0x7F0000) is False


@pytest.mark.parametrize(
    ("words", "size", "offset", "alive"),
    [
        # "size": as found on 11.1.3, behind it two pointers of an earlier block.
        ((0x7F00657A6973, GONE, GONE), 24, 16, False),
        ((0x7F00657A6973, GONE, GONE), 24, 8, False),
        ((0x7F00657A6973, GONE, GONE), 24, 0, True),
        # A larger block than such a text needs is no text's.
        ((0x7F00657A6973, GONE, GONE, GONE, GONE), 40, 16, True),
        # Nor is what begins with an address.
        ((PROGRAM + 0x61626364, GONE, GONE), 24, 16, True),
        ((0, GONE, GONE), 24, 16, True),
        # Sixteen letters and an end leave no word of 24 bytes.
        ((0x6162636465666768, 0x6162636465666768, 0), 24, 16, True),
    ],
)
def test_what_lies_behind_a_text_is_left_over(
    words: tuple[int, ...], size: int, offset: int, alive: bool
) -> None:
    data = b"".join(word.to_bytes(8, "little") for word in words)
    mappings = [
        Mapped(PROGRAM, PROGRAM + (1 << 31), "r-xp", 0, "/usr/bin/qemu-system-x86_64"),
        Mapped(HEAP, HEAP + 4096, "rw-p", 0, "[heap]"),
    ]
    live = Live(Image([(A, data)]), mappings, [])
    heap: Any = SimpleNamespace(at=lambda address: Block(A, size, LIVE))
    live.heap = heap
    assert live.alive(A + offset) is alive


ARENA = 0x7F00_0010_0000


@pytest.mark.parametrize(
    ("words", "offset", "alive"),
    [
        # As found on 11.1.3: a buffer with the end of a free chunk, which had other ones in it.
        ((1, 0xE1, A, ARENA + 0x98, 0x20, 0x30, GONE), 48, False),
        ((1, 0xE5, ARENA, A, GONE), 32, False),
        # Behind its end, in front of it, or without a pointer that only malloc has.
        ((1, 0x21, A, ARENA, 0, GONE), 40, True),
        ((GONE, 0xE1, A, ARENA, 0), 0, True),
        ((1, 0xE1, A, A, GONE), 32, True),
        # No size of a chunk, or not where one may begin.
        ((1, 0xE8, A, ARENA, GONE), 32, True),
        ((1, 0, 0xE1, A, ARENA, GONE), 40, True),
    ],
)
def test_what_a_free_chunk_left_in_a_live_block_is_left_over(
    words: tuple[int, ...], offset: int, alive: bool
) -> None:
    data = b"".join(word.to_bytes(8, "little") for word in words)
    live = Live(Image([(A, data)]), [Mapped(HEAP, HEAP + 4096, "rw-p", 0, "[heap]")], [])
    heap: Any = SimpleNamespace(
        at=lambda address: Block(A, len(data), LIVE),
        in_arena=lambda address: ARENA <= address < ARENA + 0x898,
    )
    live.heap = heap
    assert live.in_old_chunk(A + offset) is not alive


@pytest.mark.parametrize(
    ("lists", "nodes"),
    [
        ({A: (GONE, B), B: (GONE, 0)}, {A, B}),
        # A text with what is left over behind it, a circle, and what leads to no node.
        ({A: (int.from_bytes(b"text", "little"), B), B: (GONE, 0)}, set()),
        ({A: (GONE, B), B: (GONE, A)}, set()),
        ({A: (GONE, C), B: (GONE, 0)}, set()),
    ],
)
def test_a_list_is_one_when_it_ends(lists: dict[int, tuple[int, int]], nodes: set[int]) -> None:
    blocks = {at: Block(at, 24, LIVE) for at in lists}
    data = [
        (at, b"".join(word.to_bytes(8, "little") for word in (*row, 0)))
        for at, row in sorted(lists.items())
    ]
    image = Image(data)
    live = Live(image, [Mapped(HEAP, HEAP + 4096, "rw-p", 0, "[heap]")], [])
    heap: Any = SimpleNamespace(at=lambda at: blocks.get(at & ~0xFF))
    live.heap = heap
    context: Any = SimpleNamespace(image=image, live=live, from_data=lambda: [(PROGRAM, A)])
    words = Words.__new__(Words)
    words.__dict__.update(_context=context, _near={}, _lists=None)
    assert words.listed() == nodes


@pytest.mark.parametrize(
    ("block", "found"),
    [
        (None, True),
        (Block(A, 0, NOT_KNOWN), True),
        (Block(A, 40, LIVE), True),
        (Block(A, 24, LIVE), False),
        (Block(A - 16, 64, LIVE), False),
    ],
)
def test_what_a_variable_leads_to_is_a_block_as_large_as_it(
    block: Block | None, found: bool
) -> None:
    context: Any = SimpleNamespace(
        in_data=lambda at: at == A,
        live=SimpleNamespace(heap=SimpleNamespace(at=lambda at: block)),
        layout=SimpleNamespace(size=lambda struct: 40),
    )
    assert SHAPES["variable"](context, A, "NBDServerData", "") is found
    assert not SHAPES["variable"](context, A + 16, "NBDServerData", "")


def test_what_has_a_region_where_a_bus_child_has_its_device_is_none() -> None:
    """A RAM block waits for RCU with the region that it is of, which may be there still."""
    machine = FakeMachine()
    block = FakeKid(machine.allocate(machine.layout.size("BusChild")), machine.ram, 0)
    machine.dead_kids.append(block)
    machine.pending.append(block.address)
    found = book(machine)
    (pending,) = found.index.snapshot.pending or ()
    assert (pending.what, pending.target) == ("other", 0)
    assert not found.residual(machine.ram.address)


def test_a_list_of_ports_that_was_freed_has_no_array_that_another_has_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = SimpleNamespace(offset=lambda struct, field: 0, has=lambda *names: True)
    context: Any = SimpleNamespace(
        layout=layout,
        image=Image([]),
        known=SimpleNamespace(words=None),
        live=SimpleNamespace(alive=lambda at: at != GONE),
        is_a=lambda *names: False,
    )
    obj = SimpleNamespace(type="memory-region-portio-list", parent=0)
    scene: Any = SimpleNamespace(objects={A: obj})
    monkeypatch.setattr(readers, "find_words", lambda *given: [(C, A)])
    monkeypatch.setattr(readers, "_port_list_at", lambda *given: [(B, [A]), (GONE, [A])])
    found = list(readers.READERS["port_lists"](context, scene))
    assert [(hit.holder, hit.value) for hit in found] == [(B, A)]
