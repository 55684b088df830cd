"""A VM that allocates all the time is read in short stops as well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes import FakeMachine
from faketarget import FakeTarget
from test_instants import Running, same

from qmrinspect.heap import Heap, Live
from qmrinspect.hotplug.vm import Vm
from qmrinspect.reading import Reader
from qmrinspect.target.image import PAGE, Image, Mapping
from qmrinspect.target.instant import numbers
from qmrinspect.target.process import Process
from qmrinspect.walk.plan import ranges

pytestmark = pytest.mark.usefixtures("no_layout_cache")


def test_blocks_are_known_by_the_pages_that_a_heap_names() -> None:
    with Vm(machine="pc") as vm:
        process = Process(vm.pid)
        mappings = process.mappings()
        image, _ = process.capture(ranges(mappings, []))
    heap = Heap(image, mappings)
    assert heap.exact
    named, kept = heap.pages(), []
    for start, data in image.segments():
        others = bytearray(len(data))
        for at in range(0, len(data), PAGE):
            if (start + at) // PAGE in named:
                others[at : at + PAGE] = data[at : at + PAGE]
        kept.append((start, others))
    assert Heap(Image(kept), mappings).blocks() == heap.blocks()
    assert image.size > 2 * PAGE * len(named)
    # The next block comes from the front of a free one.
    free = {block.start // PAGE for block in heap.blocks() if block.state == "freed"}
    assert free & heap.ahead()
    assert all(heap.at(page * PAGE + PAGE - 1) for page in heap.ahead())


def test_the_stack_of_a_coroutine_is_told_by_its_guard() -> None:
    start, size = 0x7F0000001000, 1 << 20
    guard = Mapping(start - PAGE, start, "---p", 0, "")
    stack = Mapping(start, start + size, "rw-p", 0, "")
    for mappings, is_one in (
        ([guard, stack], True),
        ([guard, stack._replace(end=stack.end + PAGE)], False),  # a block behind it
        ([guard._replace(start=start - (1 << 19)), stack], False),  # the rest of a heap
        ([guard._replace(perms="rw-p"), stack], False),
        ([stack], False),
    ):
        live = Live(Image([]), mappings, None)
        assert live.in_coroutine(start + 8) is is_one
        assert not live.in_coroutine(stack.end + 8)


def test_the_last_stop_is_for_all_that_the_copy_before_had() -> None:
    machine = FakeMachine()
    reader = Reader(target := Running(iter([machine.build()])), [machine.layout])
    reader.read()

    def later() -> Iterator[FakeTarget]:
        for number in range(8):
            for i in range(30):
                machine.device(f"late{number}-{i}")
            yield machine.build()

    target._states = later()
    late = reader.read()
    assert (late.capture.way, late.capture.stops, target.whole) == ("pages", 4, 0)
    assert reader._context is not None
    held = [(at, len(data)) for at, data in reader._context.image.segments()]
    assert numbers(held) == target.stops[-1] > target.stops[-2]
    same(late, target.frozen, machine)


class Coroutines(Running):
    """A fake with the stacks of some coroutines, each with its guard."""

    starts = (0x7D0000001000, 0x7D0000201000, 0x7D0000401000)

    def _go(self) -> None:
        super()._go()
        for start in self.starts:
            self.memory.setdefault(start - PAGE, bytearray(PAGE))
            self.memory.setdefault(start, bytearray(1 << 20))

    def mappings(self) -> list[Mapping]:
        """Nobody may read a guard."""
        guards = [start - PAGE for start in self.starts]
        rows = super().mappings()
        return [row._replace(perms="---p") if row.start in guards else row for row in rows]


def test_a_request_may_be_served_by_another_coroutine_the_next_time() -> None:
    machine = FakeMachine()

    def served_by(number: int) -> FakeTarget:
        state = machine.build()
        Coroutines(iter([state]))
        space = machine.spaces[0].address.to_bytes(8, "little")
        return state.corrupt(Coroutines.starts[number] + (1 << 20) - 2 * PAGE + 64, space)

    reader = Reader(target := Coroutines(iter([served_by(0)])), [machine.layout])
    reader.read()
    for number in (2, 1, 0):
        target._states = iter([state := served_by(number)])
        snapshot = reader.read()
        assert (snapshot.capture.way, snapshot.capture.stops) == ("pages", 1)
        ends = [(start + (1 << 20)) // PAGE for start in Coroutines.starts]
        assert target.stops[-1] & {end - n for end in ends for n in range(257)} == {
            end - 2 for end in ends
        }
        same(snapshot, state, machine)
