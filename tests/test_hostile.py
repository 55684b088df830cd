"""Names and bytes that an attacker may have chosen."""

from __future__ import annotations

import random

import pytest
from damage import has_others, read, texts
from fakes import FakeMachine
from faketarget import (
    BASE,
    CURRENT_MACHINE,
    FakeTarget,
)

from qmrinspect.audit import check
from qmrinspect.errors import QmrError
from qmrinspect.index import Index
from qmrinspect.store import load, save
from qmrinspect.text import printable

pytestmark = pytest.mark.unit

IMAGES, FLIPS = 300, 50


# Names


@pytest.mark.parametrize(
    "raw",
    (
        b"\x1b[31mred\x1b[0m\x07\r\n",
        b"x" * 10_000,
        b"\xff\xfe\x80 no utf-8 \xc3",
        "\u202eevil\u200b\U000e0001".encode(),
    ),
    ids=("escapes", "long", "invalid", "bidi"),
)
def test_a_hostile_name_is_shown_harmlessly(raw: bytes) -> None:
    machine = FakeMachine()
    name = raw.decode("utf-8", "surrogateescape")
    machine.bar.name = name
    machine.nic.id = name
    machine.add_child(machine.nic, name, machine.new("rng"))
    snapshot = read(machine.build())
    has_others(machine, snapshot)
    report = check(snapshot)
    index = report.book.index
    for text in (
        *(index.label(address) for address in snapshot.objects),
        *(finding.text for finding in report.findings),
        printable(snapshot.regions[machine.bar.address].name),
    ):
        assert text.isprintable()
        assert len(text) < 1500


def test_a_hostile_name_survives_a_file(tmp_path: object) -> None:
    machine = FakeMachine()
    machine.bar.name = "\x1b]0;\u202e\udcff\n"
    snapshot = machine.snapshot()
    path = f"{tmp_path}/names.jsonl"
    save(snapshot, path)
    assert load(path) == snapshot


def test_a_name_without_an_end() -> None:
    machine = FakeMachine()
    target = machine.build()
    at = machine.heap + 0x180000
    target = target.corrupt(at, b"A" * 0x40000)
    target = target.set("MemoryRegion", "name", machine.bar.address, at)
    snapshot = read(target)
    assert snapshot.regions[machine.bar.address].name == ""
    assert "a name cannot be read" in texts(snapshot)
    has_others(machine, snapshot)


# Anything


def _machine() -> FakeMachine:
    machine = FakeMachine()
    machine.clock(machine.serial, "clk")
    machine.set_link(machine.nic, "peer", machine.serial)
    machine.retire(machine.view(machine.io, [machine.window], [machine.window]))
    listener = machine.add_child(
        machine.objects_container, "listener", machine.new("qio-net-listener")
    )
    socket = machine.new("qio-channel-socket")
    rows = {"sioc": machine.array(socket.address), "io_source": machine.array(1), "nsioc": 1}
    machine.poke("QIONetListener", listener.address, **rows)
    listener.ref += 1
    resets = machine.new("resettable-container")
    resets.resets = [machine.machine, machine.new("legacy-reset")]
    port = machine.device("port0", "virtio-serial-port")
    machine.machine.ref += 1  # the owner of what the element maps
    element = machine.make("VirtQueueElement", in_num=1, in_sg=machine.array(0x7E0000000100, 8))
    machine.poke("VirtIOSerialPort", port.address, elem=element)
    return machine


def _used(target: FakeTarget) -> list[tuple[int, int]]:
    """The words that mean something, so that a flip is not wasted on zeros."""
    return [
        (start, at)
        for start, data in target.memory.items()
        for at in range(0, len(data) - 7, 8)
        if any(data[at : at + 8])
    ]


def test_the_machine_to_damage_is_sound() -> None:
    assert not check(_machine().snapshot()).findings


@pytest.mark.parametrize("part", range(10))
def test_random_damage_never_ends_in_anything_but_a_qmr_error(part: int) -> None:
    machine = _machine()
    target = machine.build()
    words = _used(target)
    machine_at = BASE + CURRENT_MACHINE
    read_anyway = 0
    for seed in range(part * IMAGES // 10, (part + 1) * IMAGES // 10):
        rng = random.Random(seed)
        memory = {start: bytearray(data) for start, data in target.memory.items()}
        for _ in range(rng.randint(1, FLIPS)):
            start, at = rng.choice(words)
            if start + at == machine_at:
                continue
            how = rng.random()
            if how < 0.4:
                memory[start][at + rng.randrange(8)] ^= 1 << rng.randrange(8)
            elif how < 0.6:
                memory[start][at : at + 8] = rng.getrandbits(64).to_bytes(8, "little")
            elif how < 0.9:
                # A pointer to something else that is there.
                other, where = rng.choice(words)
                memory[start][at : at + 8] = (other + where).to_bytes(8, "little")
            else:
                memory[start][at : at + 4] = rng.choice((0x7FFFFFFF, 0xFFFFFFFF, 0)).to_bytes(
                    4, "little"
                )
        damaged = FakeTarget(memory, machine.symbols, machine.layout)
        try:
            snapshot = read(damaged)
        except QmrError as error:
            assert error.text and error.text.isprintable()
            continue
        read_anyway += 1
        index = Index(snapshot)
        for address in snapshot.objects:
            assert index.label(address).isprintable()
    # Much of the memory of so small a machine is its type table; most survive even so.
    assert read_anyway > IMAGES // 10 // 4
