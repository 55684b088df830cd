"""Structures that would come back to what was freed, each told by its shape."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence, Set
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeMachine

from qmrinspect import reading
from qmrinspect.audit.stale import stale_text
from qmrinspect.heap.live import Live
from qmrinspect.heap.model import FREED, LIVE, Block
from qmrinspect.reading import Reader
from qmrinspect.search import pointed
from qmrinspect.search.callbacks import SHAPES, recognised
from qmrinspect.search.functions import Code
from qmrinspect.search.pointed import POINTED, pointers
from qmrinspect.search.stale import Where, _without_nameless
from qmrinspect.search.words import Words
from qmrinspect.snapshot import Stale
from qmrinspect.target.image import Image
from qmrinspect.target.image import Mapping as Mapped

pytestmark = pytest.mark.unit

PROGRAM, TEXT, TABLE, DATA = 0x5500_0000_0000, 0x5500_0000_0010, 0x5500_0008_0000, 0x5500_0010_0000
HEAP, GONE = 0x5600_0000_0000, 0x5600_0001_0000


class FakeWords(Words):
    """Memory as words, with the blocks that are in it.

    :param blocks: sizes of live blocks; at GONE a freed one of 4096 bytes begins.
    """

    def __init__(self, memory: Mapping[int, int], blocks: Mapping[int, int]) -> None:
        self._memory, self._blocks = memory, {**blocks, GONE: 4096}
        self.code: Any = SimpleNamespace(has=lambda at: TEXT <= at < TABLE)
        self.nodes: set[int] = set()
        self.owners: set[int] = set()
        self.chardevs: set[int] = set()

    def __call__(self, address: int) -> int:
        return self._memory.get(address, 0)

    def many(self, start: int, end: int) -> Sequence[int]:
        return [self(at) for at in range(start, end, 8)]

    def around(self, word: int) -> None:
        """Nothing is read ahead."""

    def in_data(self, address: int) -> bool:
        return DATA <= address < HEAP

    def constant(self, address: int) -> bool:
        return PROGRAM <= address < HEAP

    def block(self, address: int) -> Block | None:
        for start, size in self._blocks.items():
            if start <= address < start + size:
                return Block(start, size, FREED if start == GONE else LIVE)
        return None

    def fits(self, struct: str, start: int, rounded: int) -> bool:
        return struct == "BlockBackend" and self.size(start) == 904

    def is_object(self, address: int) -> bool:
        return False

    def is_a(self, type: str, address: int) -> bool:
        return type == "chardev" and address in self.chardevs

    def is_of(self, type: str, address: int) -> bool:
        return address in self.owners

    def listed(self) -> Set[int]:
        return self.nodes


def _kinds(
    memory: Mapping[int, int], blocks: Mapping[int, int], word: int, **more: Any
) -> list[str]:
    words = FakeWords(memory, blocks)
    words.nodes, words.owners = more.get("nodes", set()), more.get("owners", set())
    words.chardevs = more.get("chardevs", set())
    return [found.kind for found in recognised(words, word, more.get("freed", True))]


def _row(at: int, *words: int) -> dict[int, int]:
    return {at + 8 * i: word for i, word in enumerate(words)}


A, B = HEAP + 0x100, HEAP + 0x2000
AIO = {**_row(A, TABLE, B, TEXT, GONE, 1), **_row(TABLE, TEXT, 96)}
ENTROPY = _row(A, TEXT, B, GONE, 0, 64, 0)
CRYPTO = {**_row(A, 7, 1, TEXT, GONE, 3, B, 0, B + 8), B + 8: A}
PACKET = {**_row(A, 0, B, GONE, 60 << 32, TEXT), B: A}
FRONT = _row(A, B, TEXT, 0, TEXT, 0, GONE)
DRIVE = {**_row(A + 800, GONE, TABLE, GONE), **_row(TABLE, TEXT, 0, TEXT)}
INPUT = {**_row(A, GONE, TABLE, 3, 0, 0, DATA), DATA: A, **_row(TABLE, 0, 0, TEXT)}
EVENTFD = _row(A + 64, 0x1000, 0, 4, 0, 1, 9, GONE)
RESAMPLE = {**_row(A, 11, GONE, 0, DATA), DATA: A}
ERROR = {**_row(A, GONE, 0), **_row(GONE + 16, TABLE, 120)}
# An element whose link is 64 bytes into it, of a list that begins in an object.
LIST = {**_row(A + 40, GONE + 32), **_row(GONE + 96, 0, A + 40)}


@pytest.mark.parametrize(
    ("kind", "memory", "blocks", "word"),
    [
        ("request", AIO, {A: 104}, A + 24),
        ("request", ENTROPY, {A: 56, B: 72}, A + 16),
        ("packet", PACKET, {A: 120, B: 40}, A + 16),
        ("chardev-handler", FRONT, {A: 72, B: 200}, A + 40),
        ("drive-handler", DRIVE, {A: 904}, A + 816),
        ("input-handler", INPUT, {A: 56}, A),
        ("eventfd", EVENTFD, {A: 136}, A + 112),
        ("eventfd", RESAMPLE, {A: 40}, A + 8),
        ("migration-blocker", ERROR, {A: 24}, A),
        ("list", LIST, {A: 88}, A + 40),
    ],
)
def test_what_is_queued_is_told_by_its_shape(
    kind: str, memory: dict[int, int], blocks: dict[int, int], word: int
) -> None:
    more = {"nodes": {A}, "owners": {A}, "chardevs": {B} if blocks else set()}
    assert _kinds(memory, blocks, word, **more) == [kind]
    # In no block of malloc, or without what makes its shape, it is nothing.
    assert kind not in _kinds({word: memory[word]}, blocks, word, **more)
    if kind not in ("input-handler", "list", "chardev-handler"):
        assert kind not in _kinds(memory, {}, word, **more)


def test_a_request_that_a_crypto_backend_has_is_told() -> None:
    assert _kinds(CRYPTO, {A: 72, B: 40}, A + 24) == ["request"]
    assert not _kinds({**CRYPTO, B + 8: 0}, {A: 72, B: 40}, A + 24)


@pytest.mark.parametrize(
    ("memory", "blocks", "word"),
    [
        # As found on 7.2.22: left over in a block that was not cleared.
        (FRONT, {A: 72, B: 200}, A + 40),
        # A block that begins with a function, and has nothing but zeros behind the argument.
        (_row(A, TEXT, B, GONE), {A: 56, B: 72}, A + 16),
        (ENTROPY, {A: 120, B: 72}, A + 16),
        (ENTROPY, {A: 56, B: 1024}, A + 16),
        # A list that closes in what was freed.
        ({**PACKET, A + 8: GONE, GONE: A}, {A: 120}, A + 16),
        ({**INPUT, A + 40: GONE, GONE: A, GONE + 8: DATA}, {A: 56}, A),
        ({**RESAMPLE, A + 24: GONE, GONE: A}, {A: 40}, A + 8),
        ({**CRYPTO, A + 56: GONE, GONE: A}, {A: 72}, A + 24),
    ],
)
def test_what_looks_like_it_by_chance_is_none(
    memory: dict[int, int], blocks: dict[int, int], word: int
) -> None:
    assert not _kinds(memory, blocks, word)


def test_what_is_alive_is_on_lists_rightly() -> None:
    assert not _kinds(LIST, {A: 88}, A + 40, freed=False)
    assert not _kinds(ERROR, {A: 24}, A, freed=False, nodes={A})
    # A list that leads on to where the links do not close is none.
    assert not _kinds({**LIST, GONE + 96: B}, {A: 88}, A + 40)
    # Nor is the first of two structures that know each other.
    mutual = {**_row(A, GONE + 32), **_row(GONE + 96, 0, A)}
    assert not _kinds(mutual, {A: 88}, A)
    # No variable leads to the list that has the error.
    assert not _kinds(ERROR, {A: 24}, A)


class Garbage:
    """A heap of blocks of 16 to 112 bytes, some freed, in which nothing means anything."""

    def __init__(self, chance: Random) -> None:
        self._starts, sizes = [HEAP], []
        while self._starts[-1] < HEAP + 0x4000:
            sizes.append(16 * chance.randrange(1, 8))
            self._starts.append(self._starts[-1] + sizes[-1])
        states = [chance.choice((LIVE, FREED)) for _ in sizes]
        self._blocks = [*map(Block, self._starts, sizes, states)]
        near = [block.start + chance.randrange(-9, 120) for block in self._blocks]
        words = [0, 1, 96, TEXT, DATA, (1 << 64) - 1, *near]
        self.data = b"".join(chance.choice(words).to_bytes(8, "little") for _ in range(0x800))

    def at(self, address: int) -> Block | None:
        inside = HEAP <= address < self._starts[-1]
        return self._blocks[bisect_right(self._starts, address) - 1] if inside else None

    def spans(self) -> list[tuple[int, int]]:
        return [(HEAP, self._starts[-1])]


@pytest.mark.parametrize("seed", range(4))
def test_what_means_nothing_stops_no_search(seed: int) -> None:
    heap = Garbage(Random(seed))
    context: Any = SimpleNamespace(
        image=Image([(HEAP, heap.data)], []),
        live=SimpleNamespace(heap=heap),
        statics=SimpleNamespace(data=(DATA, HEAP)),
        layout=SimpleNamespace(structs={}),
        is_a=lambda kind, other: False,
    )
    words = Words.__new__(Words)
    words.__dict__.update(_context=context, _objects={}, _near={}, _lists=None, _variables=None)
    words.__dict__.update(_home=lambda word: 0)
    words.code = FakeWords({}, {}).code
    words.code.all = [(PROGRAM, DATA)]
    for word in range(HEAP, HEAP + len(heap.data), 8):
        for freed in (False, True):
            assert all(found.kind in SHAPES for found in recognised(words, word, freed))


def test_every_kind_has_its_sentence() -> None:
    kinds = {*SHAPES, *(row.kind for row in POINTED)}
    for kind in sorted(kinds):
        text = stale_text(Stale(kind, A, A, GONE, 0, "", True, GONE, 64))
        assert not text.startswith(kind) and "when it is used" not in text


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


# What explains nothing -----------------------------------------------------------------


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


def test_a_library_of_a_qemu_in_a_directory_of_its_own_is_no_module() -> None:
    root = "/home/me/qemu/stock/root/usr/lib/x86_64-linux-gnu"
    mappings = [
        Mapped(PROGRAM, DATA, "r-xp", 0, "/usr/bin/qemu-system-x86_64"),
        Mapped(0x7F00_0000_0000, 0x7F00_0001_0000, "r-xp", 0, f"{root}/libc.so.6"),
        Mapped(0x7F00_0002_0000, 0x7F00_0003_0000, "r-xp", 0, f"{root}/qemu/hw-display-qxl.so"),
    ]
    code = Code(mappings, (PROGRAM, DATA))
    assert not code.has(0x7F00_0000_0010)
    assert code.has(0x7F00_0002_0010) and code.has(TEXT)


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


def test_a_list_of_which_only_the_shape_is_known_gives_way_to_a_known_one() -> None:
    heap = SimpleNamespace(at=lambda at: Block(GONE, 4096, FREED) if at >= GONE else None)
    live: Any = SimpleNamespace(heap=heap)
    known = Stale("memory-listener", A, A, GONE + 8, 0, "", True, GONE + 8, 0)
    nameless = Stale("list", B, B, GONE + 16, 0, "", True, GONE, 4096)
    other = Stale("list", B, B, A, 0, "", True, A, 64)
    assert _without_nameless(live, [nameless, known, other]) == [known, other]
    assert _without_nameless(live, [nameless]) == [nameless]


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


def test_what_glib_has_beside_a_pointer_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a program without libraries GLib's functions are among the program's."""
    machine = FakeMachine()
    reader = Reader(machine.build(), [machine.layout])
    snapshot = reader.read()
    timer = Stale("timer", 1, 2, 3, 5, "", True, 3, 64)
    unsure = timer._replace(kind="candidate", certain=False)
    rows = [unsure, unsure._replace(function=4), timer]
    monkeypatch.setattr(reading, "find_stale", lambda *_: rows)
    names = {4: "tick", 5: "g_free"}
    monkeypatch.setattr(reading, "names_of", lambda _a, _b, code: [names[f] for f in code])
    found = reader.stale(snapshot, Where(candidates=True))
    assert [(row.name, row.certain) for row in found] == [("tick", False), ("g_free", True)]
