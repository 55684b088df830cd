"""Structures that would come back to what was freed, each told by its shape."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Set
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeMachine

from qmrinspect import reading
from qmrinspect.audit.stale import stale_text
from qmrinspect.heap.model import FREED, LIVE, Block
from qmrinspect.reading import Reader
from qmrinspect.search.blocks import Blocks
from qmrinspect.search.callbacks import SHAPES, recognised
from qmrinspect.search.functions import Code
from qmrinspect.search.pointed import POINTED
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
        self.objects: set[int] = set()

    def __call__(self, address: int) -> int:
        return self._memory.get(address, 0)

    def where(self, start: int, end: int, value: int) -> Iterator[int]:
        return (at for at in range(start, end, 8) if self(at) == value)

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

    def leads(self, start: int, address: int) -> bool:
        return any(self.where(start, start + 64, address))

    def is_object(self, address: int) -> bool:
        return any(at <= address < at + 64 for at in self.objects)

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
    words.chardevs, words.objects = more.get("chardevs", set()), more.get("objects", set())
    return [found.kind for found in recognised(words, word, more.get("freed", True))]


def _row(at: int, *words: int) -> dict[int, int]:
    return {at + 8 * i: word for i, word in enumerate(words)}


A, B = HEAP + 0x100, HEAP + 0x2000
AIO = {**_row(A, TABLE, B, TEXT, GONE, 1), **_row(TABLE, TEXT, 96)}
ENTROPY = _row(A, TEXT, B, GONE, 0, 64, 0)
CRYPTO = {**_row(A, 7, 1, TEXT, GONE, 3, B, 0, B + 8), B + 8: A}
PACKET = {**_row(A, 0, B + 24, GONE, 60 << 32, TEXT), **_row(B, 0, 1, TEXT, A)}
FRONT = {**_row(A, B, TEXT, 0, TEXT, 0, GONE), B + 56: A}
DRIVE = {**_row(A, 0, 1), **_row(A + 800, GONE, TABLE, GONE), **_row(TABLE, TEXT, 0, TEXT)}
INPUT = {**_row(A, GONE, TABLE, 3, 0, 0, DATA), DATA: A, **_row(TABLE, 0, 0, TEXT)}
LIGHTS = {**_row(A, GONE, TABLE, 3, 0, 1, 0, DATA), DATA: A, **_row(TABLE, 0, 0, TEXT)}
EVENTFD = _row(A + 64, 0x1000, 0, 4, 0, 1, 9, GONE)
RESAMPLE = {**_row(A, 11, GONE, 0, DATA), DATA: A}
ERROR = {**_row(A, GONE, 0), **_row(GONE + 16, TABLE, TABLE + 80, 120)}
# Since 10.2 the length of a text, which is negative, comes before the line.
NEWER = {**_row(A, GONE, 0), **_row(GONE + 16, TABLE, TABLE + 80, 120 << 32 | 0xFFFF_FFF0)}
# An element whose link is 64 bytes into it, of a list that begins in an object.
LIST = {**_row(A + 40, GONE + 32), **_row(GONE + 96, 0, A + 40)}


@pytest.mark.parametrize(
    ("kind", "memory", "blocks", "word"),
    [
        ("request", AIO, {A: 104, B: 40}, A + 24),
        ("request", ENTROPY, {A: 56, B: 72}, A + 16),
        ("packet", PACKET, {A: 120, B: 40}, A + 16),
        ("chardev-handler", FRONT, {A: 72, B: 200}, A + 40),
        ("drive-handler", DRIVE, {A: 904}, A + 816),
        ("input-handler", INPUT, {A: 56}, A),
        ("eventfd", EVENTFD, {A: 136}, A + 112),
        ("eventfd", RESAMPLE, {A: 40}, A + 8),
        ("input-handler", LIGHTS, {A: 56}, A),
        ("migration-blocker", ERROR, {A: 24}, A),
        ("migration-blocker", NEWER, {A: 24}, A),
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
    assert _kinds(CRYPTO, {A: 72, B: 64}, A + 24, objects={B}) == ["request"]
    assert not _kinds({**CRYPTO, B + 8: 0}, {A: 72, B: 64}, A + 24, objects={B})


# What the main loop and the machine call, each whole: the list that it is in leads to it.
RESET = {**_row(A, 0, B, TEXT, GONE, 0), **_row(B, A, DATA), DATA: B}
CHANGE = {**_row(A, TEXT, TEXT, 0, GONE, 0, B + 32, 0), **_row(B + 32, A, DATA), DATA: B}
SAVED = {**_row(A, 0, DATA), **_row(A + 304, TABLE, GONE), DATA: A}
TIMER = {**_row(A, 99, B, TEXT, GONE, 0), **_row(B, DATA + 64, 0), B + 64: A}
HALF = {**_row(A, B, TABLE, TEXT, GONE, 0, 3), B + 16: DATA + 64, B + 200: A}
HANDLER = {**_row(A, 7, TEXT, 0, 0, 0, GONE, 0, B + 96), B + 16: DATA + 64, B + 96: A}
NOTIFIER = {**_row(A + 16, TEXT, GONE, B + 40), B + 40: A + 16}
FIRST = {A + 40: GONE + 32, **_row(GONE + 32, TEXT, 0, A + 40)}


@pytest.mark.parametrize(
    ("kind", "memory", "blocks", "word", "less"),
    [
        # Without the last, the bytes are those of the structure and what it was next to.
        ("reset-handler", RESET, {A: 40, B: 40}, A + 24, {DATA: A}),
        ("vm-change-handler", CHANGE, {A: 56, B: 56}, A + 24, {DATA: A}),
        ("savevm-entry", SAVED, {A: 328}, A + 312, {DATA: 0}),
        ("timer", TIMER, {A: 56, B: 120}, A + 24, {B: HEAP}),
        ("bottom-half", HALF, {A: 56, B: 400}, A + 24, {B + 16: TEXT}),
        ("fd-handler", HANDLER, {A: 136, B: 400}, A + 40, {B + 16: TEXT}),
    ],
)
def test_what_is_left_over_of_a_structure_is_none(
    kind: str,
    memory: dict[int, int],
    blocks: dict[int, int],
    word: int,
    less: dict[int, int],
) -> None:
    assert _kinds(memory, blocks, word) == [kind]
    assert kind not in _kinds({**memory, **less}, blocks, word)
    # The same bytes in the middle of a larger block, and next to what begins nowhere.
    larger = {A - 64: 1024, **{at: size for at, size in blocks.items() if at != A}}
    assert kind not in _kinds(memory, larger, word) or kind == "timer"
    if kind in ("timer", "bottom-half", "fd-handler"):
        assert kind not in _kinds(memory, {A: blocks[A], B - 64: 1024}, word)


def test_a_list_of_notifiers_begins_where_nothing_is_left_over() -> None:
    blocks = {A: 64, B: 904}
    for memory, word in ((NOTIFIER, A + 24), (FIRST, A + 40)):
        assert "notifier" not in _kinds(memory, blocks, word)
        assert _kinds(memory, blocks, word, objects={A})[0] == "notifier"
    assert _kinds(NOTIFIER, blocks, A + 24, objects={B}) == ["notifier"]
    assert _kinds({**NOTIFIER, B + 8: 1}, blocks, A + 24) == ["notifier"]
    # Through other notifiers, too.
    longer = {**_row(A + 16, TEXT, GONE, B + 8), **_row(B, TEXT, A + 16, DATA), DATA: B}
    assert _kinds(longer, {A: 64, B: 64}, A + 24) == ["notifier"]
    assert not _kinds({**longer, DATA: A}, {A: 64, B: 64}, A + 24)


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
        # In what was left over with it.
        (CRYPTO, {A: 72, B: 64}, A + 24),
        (PACKET, {A: 120, B - 16: 120}, A + 16),
        ({**PACKET, B + 16: 0}, {A: 120, B: 40}, A + 16),
        ({**INPUT, A + 40: B, B: A, B + 8: DATA, DATA: A}, {A: 56, B: 56}, A),
        ({**RESAMPLE, A + 24: B, B: A, B + 8: DATA}, {A: 40, B: 40}, A + 8),
        # A block backend that nobody holds, and a request to a node that is none.
        ({**DRIVE, A + 8: 0}, {A: 904}, A + 816),
        (AIO, {A: 104}, A + 24),
        # As found on 7.2.22: a variable and two functions, and the last is no size of a request.
        ({**AIO, TABLE + 8: 24}, {A: 24, B: 40}, A + 24),
    ],
)
def test_what_looks_like_it_by_chance_is_none(
    memory: dict[int, int], blocks: dict[int, int], word: int
) -> None:
    assert not _kinds(memory, blocks, word)


def test_a_frontend_that_its_character_device_does_not_know_is_none() -> None:
    assert _kinds(FRONT, {A: 72, B: 200}, A + 40, chardevs={B}) == ["chardev-handler"]
    assert not _kinds({**FRONT, B + 56: 0}, {A: 72, B: 200}, A + 40, chardevs={B})


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


def test_a_list_of_which_only_the_shape_is_known_gives_way_to_a_known_one() -> None:
    heap = SimpleNamespace(at=lambda at: Block(GONE, 4096, FREED) if at >= GONE else None)
    live: Any = SimpleNamespace(heap=heap)
    known = Stale("memory-listener", A, A, GONE + 8, 0, "", True, GONE + 8, 0)
    nameless = Stale("list", B, B, GONE + 16, 0, "", True, GONE, 4096)
    other = Stale("list", B, B, A, 0, "", True, A, 64)
    assert _without_nameless(live, [nameless, known, other]) == [known, other]
    assert _without_nameless(live, [nameless]) == [nameless]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        # msg, err_class, src and func until 10.1, func and src since 10.2.
        ((B, 0, TABLE, TABLE + 80, 120, 0), "Error 'What went wrong'"),
        ((B, 0, TABLE, GONE, 120, 0), 'a block with "What went wrong"'),
        ((GONE, 0, TABLE, TABLE + 80, 120, 0), 'a block with "What went wrong"'),
    ],
)
def test_an_error_is_told_by_its_text(words: tuple[int, ...], said: str) -> None:
    memory = {A: b"".join(word.to_bytes(8, "little") for word in words)}
    memory[B] = b"What went wrong".ljust(24, b"\0")
    blocks = Blocks.__new__(Blocks)
    blocks.__dict__.update(
        live={at: len(raw) for at, raw in memory.items()},
        _context=SimpleNamespace(image=Image(sorted(memory.items()))),
        _code=SimpleNamespace(all=[(PROGRAM, DATA)], has=lambda at: False),
        _index=SimpleNamespace(snapshot=SimpleNamespace(objects={})),
        _starts=[],
    )
    assert blocks._what(A, set(memory)) == said


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
