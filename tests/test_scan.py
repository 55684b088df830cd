"""Scans of memory find what is there, however much of it is known."""

from __future__ import annotations

import random

import pytest
from fakes import FakeMachine

from qmrinspect.records.context import Context, Known, Statics
from qmrinspect.records.scan import Beside, Found, find_words
from qmrinspect.target.image import Image
from qmrinspect.walk import take

pytestmark = pytest.mark.unit


# Scans


def test_scan_finds_words_in_every_chunk() -> None:
    value = 0x7F1234567890
    data = bytearray(0x30000)
    for at in (0, 8, 0xFFF8, 0x10000, 0x2FFF8):
        data[at : at + 8] = value.to_bytes(8, "little")
    data[0x204:0x20C] = value.to_bytes(8, "little")  # not aligned: no pointer
    image = Image([(0x1000, bytes(data))])
    places = [0x1000, 0x1008, 0x10FF8, 0x11000, 0x30FF8]
    assert [a for a, _ in find_words(image, {value, value + (1 << 20)})] == places
    assert list(find_words(image, ())) == []
    image = Image([(0x1000, bytes(data))])
    assert [a for a, _ in find_words(image, {value}, None, [(0, 0x11000)])] == places[3:]
    assert image.given == {0x11, 0x30}


def test_a_scan_that_knows_what_was_before_finds_the_same() -> None:
    value, other = 0x555555556000, 0x555555557000
    found = Found()
    memory = bytearray(0x40000)
    for start, at, word, values in (
        (0x10000, 0x8, value, {value, other}),
        (0x10000, 0x20000, other, {value, other}),  # a piece changed
        (0x10000, 0x4000, other, {value}),
        (0x13000, 0x20008, value, {value, other}),  # the segment begins elsewhere
        (0x13000, 0x8, 0, {value, other}),  # one is gone
        (0x13000, 0x30000, other, {other}),  # others are wanted
    ):
        memory[at : at + 8] = word.to_bytes(8, "little")
        image = Image([(start, bytes(memory[start - 0x10000 :]))])
        assert list(find_words(image, values, found)) == list(find_words(image, values))


def test_scans_of_memory_that_changes_find_what_a_fresh_one_finds() -> None:
    chance, found, last = random.Random(1), Found(), None
    words = [0x555555550000 + 0x110 * i for i in range(40)]
    memory = bytearray(0x50000)
    for _ in range(200):
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(memory) // 8) * 8
            memory[at : at + 8] = chance.choice([0, *words]).to_bytes(8, "little")
        low, high = (chance.choice((0, 0x1000, 0x11000)) for _ in range(2))
        image = Image(
            [(low, bytes(memory[low:0x30000])), (0x30000 + high, bytes(memory[0x30000 + high :]))]
        )
        if last is not None and chance.random() < 0.7:
            image.compare(last)
        found.expect(chance.sample(words, 3))
        for _ in range(2):
            values = chance.sample(words, chance.randrange(1, 9))
            assert list(find_words(image, values, found)) == list(find_words(image, values))
        last = image


def test_a_search_that_was_interrupted_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value, found = 0x555555556000, Found()
    memory = bytearray(0x40000)
    memory[0x30008:0x30010] = value.to_bytes(8, "little")
    assert list(find_words(Image([(0, bytes(memory))]), {value}, found)) == [(0x30008, value)]
    memory[0x8] = 1

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("qmrinspect.records.scan._marked", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(find_words(Image([(0, bytes(memory))]), {value}, found))
    assert not list(find_words(Image([(0, bytes(0x40000))]), {value}, found))


def test_words_beside_others_are_found_where_memory_changes() -> None:
    chance, known, last = random.Random(2), Beside(), None
    heap, code = [(0x555555550000, 0x555555590000)], [(0x7F0000000000, 0x7F0000001000)]
    memory, total = bytearray(0x40000), 0
    for _ in range(200):
        for _ in range(chance.randrange(6)):
            at = chance.choice((0x10000, 0x20000, chance.randrange(0x40000))) // 8 * 8
            at += 8 * chance.randrange(-8, 8)
            word = chance.choice((0, 0x555555550010, 0x7F0000000010))
            if 0 <= at < len(memory):
                memory[at : at + 8] = word.to_bytes(8, "little")
        low = chance.choice((0, 0x1000))
        image = Image([(low, bytes(memory[low:0x30000])), (0x30000, bytes(memory[0x30000:]))])
        if last is not None and chance.random() < 0.7:
            image.compare(last)
        found = known.find(image, heap, code, heap)
        assert found == Beside().find(image, heap, code, heap)
        total += len(found)
        last = image
    assert total > 1000


def test_variables_that_lead_elsewhere_are_found_where_memory_changes() -> None:
    chance, known, machine, last = random.Random(3), Known(), FakeMachine(), None
    variant = take(machine.build(), machine.layout)[1].variant
    # Without ASLR the heap begins where the data ends.
    data, heap = (0x555555550008, 0x555555570000), (0x555555570000, 0x555555580000)
    statics = Statics({}, data, data, data)
    memory, total = bytearray(0x30000), 0
    heap_words = heap[0], heap[0] + 0x40, heap[1] - 8
    words = (0, data[0] + 8, *heap_words, 0x7F0000000010)
    for _ in range(200):
        for _ in range(chance.randrange(4)):
            at = chance.choice((0, 0x1FFF8, 0x20000, chance.randrange(len(memory)))) // 8 * 8
            memory[at : at + 8] = chance.choice(words).to_bytes(8, "little")
        image = Image([(0x555555550000, bytes(memory))])
        if last is not None and chance.random() < 0.7:
            image.compare(last)
        context = Context(image, machine.layout, statics, variant, known)
        there = [(at, image.u64(at)) for at in range(*data, 8)]
        found = [(at, word) for at, word in there if word in heap_words]
        assert list(context.from_data()) == found
        held = {word for _, word in there}
        assert [context.in_data(word) for word in words] == [word in held for word in words]
        total += len(found)
        last = image
    assert total > 1000


def test_a_reading_that_knows_an_earlier_one_sees_the_same() -> None:
    machine, known = FakeMachine(), Known()
    take(machine.build(), machine.layout, known=known)
    assert known.types and known.variables.keys() == {"type_table", "flat_views"}
    late = machine.device("late")
    machine.define("newest", "device", machine.types["device"][1])
    for change in (lambda: None, lambda: machine.unparent(late), lambda: machine.new("newest")):
        change()
        target = machine.build()
        assert take(target, machine.layout, known=known)[0] == take(target, machine.layout)[0]
