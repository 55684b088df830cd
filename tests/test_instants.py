"""A picture made of a short stop and a copy is that of the instant of the stop."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from fakes import FakeMachine
from faketarget import BASE, DATA, RCU_HEAD, FakeTarget

from qmrinspect.reading import Reader
from qmrinspect.snapshot import Snapshot
from qmrinspect.target.image import PAGE, Capture, Image, Mapping, Peek, Ranges
from qmrinspect.target.instant import Choose, Copy, Frozen, numbers
from qmrinspect.walk import decode, take

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("no_layout_cache")]


class Running(FakeTarget):
    """A fake that runs: it goes from state to state, one for each stop and each copy."""

    def __init__(self, states: Iterator[FakeTarget]) -> None:
        self._states = states
        self.stops: list[set[int]] = []  # the pages that each stop read
        self.whole = 0
        self._decoding = False
        self._go()

    def _go(self) -> None:
        state = next(self._states, None)
        if state is not None:
            self.__dict__.update(vars(state))
            for data in self.memory.values():
                data += bytes(-len(data) % PAGE)
        self.state = state or self.state

    def mappings(self) -> list[Mapping]:
        """The program's data is writable, its text is not."""
        text, *rest = super().mappings()
        middle = BASE + DATA
        data = Mapping(middle, text.end, "rw-p", 0, "")
        return [text._replace(end=middle), data, *rest]

    def peek(self, address: int, size: int) -> bytes | None:
        """While an image is decoded only what cannot change may be read."""
        there = [m for m in self.mappings() if m.start <= address < m.end]
        assert not self._decoding or not any("w" in m.perms for m in there)
        return super().peek(address, size)

    def freeze(self, ranges: Ranges, quiet: Callable[[Peek], bool] | None = None) -> Frozen:
        """Read the pages of the next state."""
        self._decoding = False
        self._go()
        self.frozen = self.state
        if quiet is not None and not quiet(self.peek):
            return Frozen([], 7, 0, False)
        segments = [(a, memoryview(d)) for a, d in self._pieces(ranges)]
        self.stops.append(numbers((a, len(d)) for a, d in segments))
        return Frozen(segments, 10, 1, True)

    def glance(self, ranges: Ranges) -> Image:
        """Read without a stop."""
        self._decoding = False
        self._go()
        return Image(self._pieces(ranges))

    def copy(self, choose: Choose) -> Copy:
        """Read all of the state after that."""
        self._decoding = False
        self._go()
        mappings = self.mappings()
        segments = [(a, memoryview(bytearray(d))) for a, d in self._pieces(choose(mappings))]
        writable = [(m.start, m.end - m.start) for m in mappings if "w" in m.perms]
        self._decoding = True
        return Copy(segments, [], writable, 1, 0, mappings)

    def capture_all(
        self, choose: Choose, quiet: Callable[[Peek], bool] | None = None
    ) -> tuple[Image, Capture]:
        """Read all of the next state in one stop."""
        self._decoding = False
        self.whole += 1
        self._go()
        self.frozen = self.state
        if quiet is not None and not quiet(self.peek):
            return Image([]), Capture(7, 7, 0, 0, 0, False)
        return self.state.capture(choose(self.mappings()))

    def _pieces(self, ranges: Ranges) -> list[tuple[int, bytes]]:
        image, _ = super().capture(ranges)
        return [(start, bytes(data)) for start, data in image.segments()]


def same(snapshot: Snapshot, state: FakeTarget, machine: FakeMachine) -> None:
    """A snapshot must be what one stop for all memory of that state gives."""
    truth, _ = take(state, machine.layout)
    assert snapshot._replace(capture=truth.capture, target=truth.target) == truth


def changes(machine: FakeMachine, seed: int) -> Iterator[FakeTarget]:
    """Yield states of a machine that plugs and unplugs between any two of them."""
    chance = random.Random(seed)
    plugged = []
    for number in range(400):
        for _ in range(chance.randrange(4)):
            if plugged and chance.random() < 0.5:
                machine.unparent(plugged.pop(chance.randrange(len(plugged))))
            else:
                plugged.append(machine.device(f"d{number}-{chance.randrange(1 << 20)}"))
                machine.region("bar", plugged[-1])
        yield machine.build()


@pytest.mark.parametrize("seed", range(2))
def test_every_reading_is_of_the_instant_of_its_last_stop(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qmrinspect.instants._HOT_MIN", 1)
    machine = FakeMachine()
    target = Running(changes(machine, seed))
    reader = Reader(target, [machine.layout])
    ways = set()
    for _ in range(8):
        snapshot = reader.read()
        same(snapshot, target.frozen, machine)
        ways.add(snapshot.capture.way)
    assert "pages" in ways


def test_a_process_of_our_own_is_read_whole_and_walked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    walks = []
    monkeypatch.setattr(
        "qmrinspect.instants.decode", lambda *given: walks.append(1) or decode(*given)
    )
    machine = FakeMachine()
    target = Running(changes(machine, 3))
    reader = Reader(target, [machine.layout], own=True)
    for number in range(1, 6):
        snapshot = reader.read()
        same(snapshot, target.frozen, machine)
        assert (snapshot.capture.way, snapshot.capture.stops) == ("whole", 1)
        assert len(walks) <= number
    assert not target.stops


def test_only_what_changes_is_read_in_the_stop_when_the_rest_is_proved_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qmrinspect.instants._HOT_MIN", 1)
    machine = FakeMachine()
    first = machine.build()
    at_ref = first.field("Object", "ref", machine.nic.address)
    counts = [first.corrupt(at_ref, n.to_bytes(4, "little")) for n in range(5, 15)]
    target = Running(iter([first]))
    reader = Reader(target, [machine.layout])
    for state in counts[:2]:
        target._states = iter([state])
        assert reader.read().capture.way == "pages"
    # Between the three looks of a reading the count goes on: it is hot, and read in the stop.
    target._states = iter(counts[2:5])
    snapshot = reader.read()
    assert snapshot.capture.way == "hot" and snapshot.capture.stops == 1
    assert 0 < snapshot.capture.pages < len(target.stops[-2]) // 2
    assert snapshot.objects[machine.nic.address].ref == 8
    same(snapshot, target.frozen, machine)
    # What was never seen to change does so now: the proof fails, and all pages are read.
    other = first.field("Object", "ref", machine.pci.address)
    late = [counts[5].corrupt(other, n.to_bytes(4, "little")) for n in range(30, 35)]
    assert machine.pci.address // PAGE != machine.nic.address // PAGE
    target._states = iter(late)
    snapshot = reader.read()
    assert (snapshot.capture.way, snapshot.capture.stops) == ("pages", 2)
    same(snapshot, target.frozen, machine)


def test_a_vm_at_rest_is_stopped_once_for_what_the_walk_reads() -> None:
    machine = FakeMachine()
    target = Running(iter([machine.build()]))
    reader = Reader(target, [machine.layout])
    for number in range(1, 4):
        capture = reader.read().capture
        assert (capture.way, capture.stops, capture.retries) == ("pages", 1, 0)
        assert capture.pages == len(target.stops[-1]) > 0
        assert len(target.stops) == number and not target.whole
    everything = numbers((m.start, m.end - m.start) for m in target.mappings())
    assert target.stops[-1] < everything


def test_what_is_new_costs_one_more_stop_and_then_none() -> None:
    machine = FakeMachine()
    before = machine.build()
    reader = Reader(target := Running(iter([before])), [machine.layout])
    reader.read()
    for number in range(40):
        machine.device(f"late{number}")
    target._states = iter([machine.build()])
    late = reader.read()
    assert late.capture.stops == 2 and not target.whole
    assert target.stops[-1] > target.stops[-2]
    same(late, target.frozen, machine)
    assert reader.read().capture.stops == 1


def test_memory_that_never_rests_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine()
    target = Running(iter([machine.build()]))
    reader = Reader(target, [machine.layout])
    reader.read()
    monkeypatch.setattr(target, "_pieces", lambda ranges: [])
    snapshot = reader.read()
    assert (snapshot.capture.way, target.whole) == ("whole", 1)
    assert snapshot.capture.stops == 5
    same(snapshot, target.frozen, machine)


def quiet_and_busy() -> tuple[FakeMachine, FakeTarget, FakeTarget, Running, Reader]:
    """Return a machine at a quiet moment and at another; the reader has seen the first."""
    machine = FakeMachine()
    quiet = machine.build()
    reader = Reader(target := Running(iter([quiet])), [machine.layout])
    reader.read()
    machine.retire(machine.view(machine.system, []))
    return machine, quiet, machine.build(), target, reader


def test_a_busy_moment_is_seen_before_anything_is_read() -> None:
    machine, quiet, busy, target, reader = quiet_and_busy()
    assert busy.u64(BASE + RCU_HEAD) == quiet.u64(BASE + RCU_HEAD)
    target._states = iter([busy, busy, quiet])
    before = len(target.stops)
    snapshot = reader.read()
    assert snapshot.capture.quiescent and snapshot.capture.retries == 2
    assert len(target.stops) == before + 1
    same(snapshot, quiet, machine)
    # One that is always busy is read all the same, and said to be.
    target._states = iter([busy])
    snapshot = reader.read()
    assert not snapshot.capture.quiescent and snapshot.capture.retries >= 7
    same(snapshot, target.frozen, machine)


def test_a_quiet_moment_that_is_long_in_coming_is_waited_for() -> None:
    machine, quiet, busy, target, reader = quiet_and_busy()
    target._states = iter([*[busy] * 15, quiet])
    snapshot = reader.read()
    assert snapshot.capture.quiescent and snapshot.capture.retries == 15
    same(snapshot, quiet, machine)
    # Of a VM that is never at rest each reading takes no longer than that: it hangs, perhaps.
    target._states = iter([busy])
    first, second = reader.read().capture, reader.read().capture
    assert not first.quiescent and not second.quiescent
    assert second.retries < first.retries // 2


def test_a_copy_of_all_memory_waits_for_a_quiet_moment_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine, quiet, busy, target, reader = quiet_and_busy()
    monkeypatch.setattr(target, "_pieces", lambda ranges: [])
    target._states = iter([*[quiet] * 8, *[busy] * 10, quiet])
    snapshot = reader.read()
    assert (snapshot.capture.way, snapshot.capture.quiescent) == ("whole", True)
    assert target.whole == 11
    same(snapshot, quiet, machine)


def working(machine: FakeMachine, context: int) -> FakeTarget:
    """Return the machine at an instant at which an iothread is between two references."""
    machine.poke("AioContext", context, notify_me=0)
    machine.nic.ref += 1
    state = machine.build()
    machine.nic.ref -= 1
    machine.poke("AioContext", context, notify_me=2)
    return state


def iothread(machine: FakeMachine, name: str) -> int:
    """Make an iothread that waits for work; return its context."""
    context = machine.make("AioContext", notify_me=2)
    thread = machine.add_child(machine.objects_container, name, machine.new("iothread"))
    machine.poke("IOThread", thread.address, ctx=context, running=1)
    return context


def test_an_iothread_at_work_is_no_quiet_moment() -> None:
    machine = FakeMachine()
    machine.define("iothread", "object", machine.layout.size("IOThread"))
    first = iothread(machine, "io0")
    reader = Reader(target := Running(iter([machine.build()])), [machine.layout])
    assert reader.read().capture.quiescent
    busy, quiet = working(machine, first), machine.build()
    target._states = iter([busy, busy, quiet])
    snapshot = reader.read()
    assert snapshot.capture.quiescent and snapshot.capture.retries == 2
    same(snapshot, quiet, machine)
    # One that is new is known by the next reading; one that ends holds none up.
    second = iothread(machine, "io1")
    target._states = iter([machine.build()])
    reader.read()
    busy, quiet = working(machine, second), machine.build()
    target._states = iter([busy, quiet])
    snapshot = reader.read()
    assert snapshot.capture.quiescent and snapshot.capture.retries == 1
    same(snapshot, quiet, machine)
    for thread in [o for o in machine.objects if o.type == "iothread"]:
        machine.poke("IOThread", thread.address, running=0)
    for context in (first, second):
        machine.poke("AioContext", context, notify_me=0)
    target._states = iter([machine.build()])
    reader.read()
    assert reader.read().capture.retries == 0


def test_pages_that_were_never_touched_are_zeros_and_not_read() -> None:
    def refuse(address: int, size: int) -> bytes | None:
        raise AssertionError(f"{address:#x} was read")

    held = [(0x10000, bytes([1]) * PAGE), (0x12000, bytes([2]) * PAGE)]
    image = Image(held, refuse, absent=[(0x11000, PAGE)], writable=[(0x10000, 4 * PAGE)])
    assert image.read(0x10FFC, 8) == b"\1" * 4 + bytes(4)
    assert image.u64(0x11008) == 0
    assert image.read(0x11FFF, 2) == b"\0\2"
    assert image.given == {0x10, 0x12} and not image.missing


class Ending(Running):
    """A fake of which each stop sees a request in flight, and each copy that it has ended."""

    def __init__(self, busy: FakeTarget, idle: FakeTarget) -> None:
        self._busy, self._idle = busy, idle
        self._next = idle
        super().__init__(iter(lambda: self._next, None))

    def freeze(self, ranges: Ranges, quiet: Callable[[Peek], bool] | None = None) -> Frozen:
        self._next = self._busy
        try:
            return super().freeze(ranges, quiet)
        finally:
            self._next = self._idle

    def capture_all(self, *given: Any) -> tuple[Image, Capture]:
        self._next = self._busy
        try:
            return super().capture_all(*given)
        finally:
            self._next = self._idle


@pytest.mark.parametrize("completed", [False, True])
def test_a_request_that_ends_before_the_copy_is_found_by_its_queue(completed: bool) -> None:
    machine = FakeMachine()
    layout = machine.layout
    machine.define("nvme", "pci-device", layout.size("NvmeCtrl"))
    nvme = machine.device("nvme0", "nvme")
    queue = machine.make("NvmeSQueue", ctrl=nvme.address)
    completion = machine.make("NvmeCQueue", ctrl=nvme.address)
    queues = {"sq": machine.array(0, queue), "cq": machine.array(0, completion)}
    machine.poke("NvmeCtrl", nvme.address, **queues)
    params = nvme.address + layout.offset("NvmeCtrl", "params")
    machine.poke("NvmeParams", params, max_ioqpairs=1)
    # On a page that nobody else needs.
    machine.allocate(8 * PAGE)
    request = machine.make("NvmeRequest", sq=queue)
    machine.allocate(8 * PAGE)
    idle = machine.build()
    nvme.ref += 1
    if completed:
        machine.poke("NvmeCQueue", completion, req_list=request)
    else:
        machine.poke("NvmeSQueue", queue, out_req_list=request)
    qsg = request + layout.offset("NvmeRequest", "sg") + layout.offset("NvmeSg", "qsg")
    fields = {"dev": nvme.address, "as": machine.spaces[0].address, "nsg": 1, "nalloc": 5}
    machine.poke("QEMUSGList", qsg, sg=machine.array(0, 0), **fields)
    machine.allocate(8 * PAGE)
    target = Ending(machine.build(), idle)
    reader = Reader(target, [layout])
    for _ in range(3):
        snapshot = reader.read()
        same(snapshot, target.frozen, machine)
        assert [f.holder for f in snapshot.fields if f.kind == "scatter-list"] == [qsg]


def test_a_list_that_went_on_while_it_was_copied_switches_no_kind_off() -> None:
    """A look without a stop is of no instant: the head is of before, the element of later."""
    machine = FakeMachine()
    layout, disk = machine.layout, machine.device("disk0", "scsi-device")
    disk.ref += 1
    request = machine.make("SCSIRequest", dev=disk.address, refcount=2)
    machine.poke("SCSIDevice", disk.address, requests=request)
    back = request + layout.offset("SCSIRequest", "next") + 8
    machine.pokes.append((back, 8, disk.address + layout.offset("SCSIDevice", "requests")))
    reader = Reader(Ending(at := machine.build(), at.corrupt(back, bytes(8))), [layout])
    snapshot = reader.read()
    assert reader.layout is not None and reader.layout.has("SCSIRequest", "next")
    assert [f.kind for f in snapshot.fields if f.target == disk.address] == ["scsi-request"]
