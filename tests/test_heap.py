"""Live or freed, against a recorder of malloc in the program itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import stock_qemu

from qmrinspect.heap import Block, Heap, Live, Walked
from qmrinspect.heap.chunks import Chunks
from qmrinspect.heap.mapped import Parameters, find_mapped
from qmrinspect.hotplug.vm import Vm
from qmrinspect.target.arenas import Area, libc_data
from qmrinspect.target.image import Image, Mapping
from qmrinspect.target.process import Process
from qmrinspect.target.words import NotKnown, Words
from qmrinspect.walk.plan import ranges

SOURCES = Path(__file__).parent / "heap"
MAGIC = b"malloc-truth-v1\0"
THREADS = 8  # of the stress program, beside its first
# Of the caches of threads: libc's own, which no recorder sees.
CACHES = {0x288, 0x298, 0x2F8, 0x308}


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _compiled(tmp_path_factory.mktemp("heap"), "record.c", "-shared", "-fPIC", "-ldl")


def _compiled(directory: Path, source: str, *options: str) -> Path:
    made = directory / Path(source).stem
    command = ["cc", "-O1", "-o", made, SOURCES / source, *options]
    subprocess.run(list(map(str, command)), check=True)
    return made


class Stress:
    """The stress program, told when to work and when to rest."""

    def __init__(self, program: Path, preload: str, **tunables: str) -> None:
        environment = {"LD_PRELOAD": preload, **tunables}
        self._process = subprocess.Popen(
            [str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.pid = self._process.pid

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().strip() == word
        if word == "storm":
            time.sleep(0.1)
        # A thread that is followed by a new one may still be in free() when that rests.
        while word == "rest" and len(os.listdir(f"/proc/{self.pid}/task")) > 1 + THREADS:
            time.sleep(0.001)

    def __enter__(self) -> Stress:
        return self

    def __exit__(self, *reason: object) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def stress(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _compiled(tmp_path_factory.mktemp("heap"), "stress.c", "-pthread")


def _captured(pid: int) -> tuple[Image, list[Mapping]]:
    process = Process(pid)
    try:
        mappings = process.mappings()
        return process.capture(ranges(mappings, []))[0], mappings
    finally:
        process.close()


class Compared(NamedTuple):
    """How a heap differs from what the recorder has."""

    truth: int
    wrong: list[tuple[int, int, Block | None]]
    extra: list[Block]


def _truth(image: Image) -> dict[int, int]:
    """Return the size that was asked for of every live block."""
    for start, data in image.segments():
        if bytes(data[:16]) == MAGIC:
            slots = int.from_bytes(data[24:32], "little")
            assert not any(data[16:24]), "the recorder's table was too small"
            out: dict[int, int] = {}
            table, end = start + 32, start + 32 + 16 * slots
            for base, part in image.segments():
                first, last = max(table, base), min(end, base + len(part))
                if first < last:
                    words = part[first - base : last - base].cast("Q")
                    out.update((b, n) for b, n in zip(words[::2], words[1::2]) if b > 1)
            return out
    raise AssertionError("the program was not started with the recorder")


def _compared(image: Image, heap: Heap) -> Compared:
    truth = _truth(image)
    wrong = []
    for start, size in truth.items():
        block = heap.at(start)
        fits = block is not None and block.start == start and block.size >= size
        if not fits or block is None or block.state != "live":
            wrong.append((start, size, block))
    extra = [b for b in heap.blocks() if b.state == "live" and b.start not in truth]
    return Compared(len(truth), wrong, extra)


def _settled(pid: int) -> tuple[Image, Heap]:
    """Capture until the heap is known: a page that is touched meanwhile spoils one."""
    for attempt in range(30):
        image, mappings = _captured(pid)
        heap = Heap(image, mappings)
        if heap.exact:
            return image, heap
        time.sleep(0.01 * attempt)
    raise AssertionError(heap.reason)


def _is_all_known(pid: int, least: int) -> None:
    """What the recorder has, more than ``least`` blocks, is what the heap has."""
    compared = _compared(*_settled(pid))
    assert compared.truth > least
    assert not compared.wrong
    assert {block.size for block in compared.extra} <= CACHES


@pytest.mark.parametrize("version", ["", "10.0", "11.1"])
def test_every_block_of_a_qemu_is_known(
    recorder: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """glibc 2.36, 2.41 and 2.43: the newest has other caches, and no fast bins."""
    qemu = stock_qemu(version) if version else "qemu-system-x86_64"
    monkeypatch.setenv("LD_PRELOAD", str(recorder))
    extra = ("-device", "virtio-net-pci", "-device", "qemu-xhci")
    with Vm(qemu, "pc", extra=extra) as vm:
        monkeypatch.delenv("LD_PRELOAD")
        _is_all_known(vm.pid, 20_000)


def test_every_block_of_a_daemon_is_known(recorder: Path, tmp_path: Path) -> None:
    """What it allocates after its fork lies in a mapping of its own, behind the heap it had."""
    pidfile = tmp_path / "pid"
    command = ["qemu-system-x86_64", "-S", "-display", "none", "-monitor", "none", "-daemonize"]
    subprocess.run(
        [*command, "-pidfile", str(pidfile), "-device", "qemu-xhci"],
        env={**os.environ, "LD_PRELOAD": str(recorder)},
        check=True,
    )
    pid = int(pidfile.read_text())
    try:
        _, mappings = _captured(pid)
        assert len([m for m in mappings if m.path == "[heap]"]) > 1
        compared = _compared(*_settled(pid))
        assert compared.truth > 10_000
        assert not compared.wrong
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.unit
def test_a_block_that_borders_on_a_heap_is_found() -> None:
    """The kernel makes one mapping of a thread's heap and of what is mapped beside it."""
    heap, size = 0x7F0000000000, 0x21000
    below, above = bytearray(0x3000), bytearray(0x5000)
    below[8:16] = (0x3000 | 2).to_bytes(8, "little")
    above[8:16] = (0x5000 | 2).to_bytes(8, "little")
    start, end = heap - len(below), heap + size + len(above)
    image = Image([(start, bytes(below) + bytes(size) + bytes(above))])
    mappings = [Mapping(start, end, "rw-p", 0, "")]
    areas = [Area(heap + 0x8D0, heap + 0x1F000, heap + size - 64)]
    found = find_mapped(Words(image), mappings, areas, Parameters(0, 2, 0x8000))
    assert found == [(start, 0x3000), (heap + size, 0x5000)]


@pytest.mark.unit
@pytest.mark.timeout(5)
def test_a_walk_that_steps_over_its_end_ends() -> None:
    """As where the last chunk and the top changed between two pages that were read."""
    memory = bytearray(0x1000)
    for at in range(0, 0x1000, 0x40):
        memory[at + 8 : at + 16] = (0x40 | 1).to_bytes(8, "little")
    start = 0x550000000000
    with pytest.raises(NotKnown, match="behind its end"):
        Chunks().add(Words(Image([(start, bytes(memory))])), Area(start, start + 0x220, 0))


@pytest.mark.parametrize(
    "tunables",
    [
        "",
        "glibc.malloc.tcache_count=0",
        "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=4096",
    ],
)
def test_every_block_of_many_threads_is_known(recorder: Path, stress: Path, tunables: str) -> None:
    with Stress(stress, str(recorder), GLIBC_TUNABLES=tunables) as program:
        program.tell("storm")
        # A walk in the middle of a storm is right, or says that it is not.
        for _ in range(2):
            image, mappings = _captured(program.pid)
            heap = Heap(image, mappings)
            if heap.exact:
                assert not _compared(image, heap).wrong
            else:
                block = heap.at(next(iter(_truth(image))))
                assert block is not None and block.state == "not known"
        program.tell("rest")
        _is_all_known(program.pid, 500)


def test_every_block_of_a_program_without_libraries_is_known(tmp_path: Path) -> None:
    """Its malloc has its variables among the program's own."""
    wrapped = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "realloc", "memalign", "free")]
    options = ("-DWRAP", SOURCES / "record.c", *wrapped, "-static-pie", "-pthread")
    program = _compiled(tmp_path, "stress.c", *map(str, options))
    with Stress(program, "") as running:
        running.tell("storm")
        running.tell("rest")
        _is_all_known(running.pid, 500)


def test_a_walk_that_knows_an_earlier_one_comes_to_the_same(stress: Path) -> None:
    walked, last, exact = Walked(), None, 0
    with Stress(stress, "") as program:
        program.tell("storm")
        program.tell("rest")
        process = Process(program.pid)
        for turn in range(8):
            if turn in (3, 5):
                program.tell("storm")
                program.tell("rest")
            mappings = process.mappings()
            image = process.capture(ranges(mappings, []))[0]
            if last is not None and turn % 2:
                image.compare(last)  # or each piece is compared
            fresh, heap = Heap(image, mappings), Heap(image, mappings, walked)
            assert (heap.reason, heap.blocks()) == (fresh.reason, fresh.blocks())
            exact += heap.exact
            last = image
        process.close()
    assert exact > 4


def test_freed_blocks_are_told_from_live_ones(recorder: Path, stress: Path) -> None:
    with Stress(stress, str(recorder)) as program:
        program.tell("storm")
        program.tell("rest")
        image, heap = _settled(program.pid)
        blocks = heap.blocks()
        starts = [block.start for block in blocks]
        assert starts == sorted(starts)
        freed = [block for block in blocks if block.state == "freed"]
        assert len(freed) > 1000
        assert not {block.start for block in freed} & _truth(image).keys()
        inside = freed[10].start + freed[10].size // 2
        assert heap.at(inside) == blocks[bisect_right(starts, inside) - 1]
        assert heap.at(0x1000) is None


def test_another_allocator_is_not_known(stress: Path) -> None:
    for name in ("libtcmalloc_minimal.so.4", "libjemalloc.so.2"):
        with Stress(stress, name) as program:
            program.tell("storm")
            program.tell("rest")
            image, mappings = _captured(program.pid)
            heap = Heap(image, mappings)
            assert not heap.exact
            assert "another" in heap.reason
            assert not heap.blocks()


@pytest.mark.unit
def test_the_data_of_malloc_is_in_libc_or_in_a_program_without_libraries() -> None:
    program = [
        Mapping(0x1000, 0x2000, "r-xp", 0, "/usr/bin/qemu"),
        Mapping(0x2000, 0x3000, "rw-p", 0x1000, "/usr/bin/qemu"),
        Mapping(0x3000, 0x4000, "rw-p", 0, ""),
    ]
    guest = [Mapping(0x8000, 0x9000, "rwxs", 0, "/memfd:ram (deleted)")]
    assert libc_data([*program, *guest]) == [(0x2000, 0x3000)]
    libc = [
        Mapping(0x5000, 0x6000, "r-xp", 0, "/lib/libc.so.6"),
        Mapping(0x6000, 0x7000, "rw-p", 0x1000, "/lib/libc.so.6"),
    ]
    assert libc_data([*program, *libc]) == [(0x6000, 0x7000)]
    for other in ("/lib/ld-musl-x86_64.so.1", "/lib/libbionic.so"):
        with pytest.raises(NotKnown, match="no C library of GNU"):
            libc_data([*program, Mapping(0x5000, 0x6000, "r-xp", 0, other)])


def test_a_damaged_heap_is_not_known(stress: Path) -> None:
    with Stress(stress, "") as program:
        program.tell("storm")
        program.tell("rest")
        image, heap = _settled(program.pid)
        mappings = _captured(program.pid)[1]
        blocks = heap.blocks()
        live = next(b for b in blocks[1000:] if b.state == "live")
        # In a list of free chunks, as the last one of a heap is not.
        pairs = zip(blocks[1000:], blocks[1001:])
        binned = (b for b, after in pairs if b.start + b.size + 8 == after.start)
        freed = next(b for b in binned if b.state == "freed" and b.size > 0x500)
        # What comes after a wrong size is the content of a block: the walk may end anywhere.
        walk = "too early|behind its end|leaves|not by the other"
        damages = (
            (live.start - 8, 0x11, walk),
            (live.start - 8, (live.size + 24) | 5, walk),
            (freed.start, 0x1000, "was not captured"),
        )
        for address, word, reason in damages:
            segments = [(start, bytearray(data)) for start, data in image.segments()]
            for start, data in segments:
                if start <= address < start + len(data):
                    data[address - start : address - start + 8] = word.to_bytes(8, "little")
            spoilt = Heap(Image(segments), mappings)
            assert re.search(reason, spoilt.reason)
            assert spoilt.at(live.start) == Block(0, 0, "not known")


def test_stacks_and_freed_blocks_say_nothing(stress: Path) -> None:
    with Stress(stress, "") as program:
        program.tell("storm")
        program.tell("rest")
        image, mappings = _captured(program.pid)
        assert image.stacks is not None and len(image.stacks) >= 9
        live = Live(image, mappings, image.stacks)
        blocks = live.heap.blocks()
        assert live.alive(next(b.start for b in blocks if b.state == "live")) is True
        assert live.alive(next(b.start for b in blocks if b.state == "freed")) is False
        waiting = image.stacks[0]
        assert live.alive(waiting) is True
        assert live.alive(waiting - 4096) is False
        # The program's own variables are live whatever the stacks are.
        data = next(m for m in mappings if m.path.endswith("stress") and "w" in m.perms)
        assert live.alive(data.start) is True
        assert live.alive(0x1000) is False
        # A thread's stack that is not known is neither.
        assert Live(image, mappings, None).alive(waiting) is None
        unknown = Live(image, [m for m in mappings if "libc" not in m.path], image.stacks)
        assert unknown.alive(blocks[0].start) is None
        assert unknown.alive(data.start) is True
