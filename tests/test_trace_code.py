"""Instructions that change a count, call frame rules and source lines, without a QEMU."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from qmrinspect.errors import TargetError
from qmrinspect.report.traces import event_line
from qmrinspect.stacks.arch import arch_of
from qmrinspect.stacks.cfi import Frames
from qmrinspect.stacks.expression import NoRule, evaluate, leb
from qmrinspect.stacks.lines import Line, find_lines, parse_addr2line, relative, source_root
from qmrinspect.stacks.names import Frame
from qmrinspect.target.elf import ElfFile
from qmrinspect.trace.kinds import kinds_of
from qmrinspect.trace.recorder import Event
from qmrinspect.trace.tree import balance_tree, folded, tree_json, tree_lines
from qmrinspect.trace.x86 import Change, find_writes

#: QEMU's two functions, and users that compilers put copies of them into.
SOURCE = """
#include <limits.h>
#include <stdlib.h>
struct object { void *class, *free, *properties; unsigned ref; void *parent; };
struct device { struct object parent_obj; long other[20]; struct object inner; };
void finalize(struct object *);
void assert_failed(void) __attribute__((noreturn));
HIDDEN void object_ref(struct object *obj)
{
    unsigned ref;
    if (!obj) return;
    ref = __atomic_fetch_add(&obj->ref, 1, __ATOMIC_SEQ_CST);
    if (!(ref < INT_MAX)) assert_failed();
}
HIDDEN void object_unref(struct object *obj)
{
    if (!obj) return;
    if (!(obj->ref > 0)) assert_failed();
    if (__atomic_fetch_sub(&obj->ref, 1, __ATOMIC_SEQ_CST) == 1) finalize(obj);
}
void take(struct device *d) { object_ref(&d->parent_obj); object_ref(&d->inner); }
void drop(struct device *d) { object_unref(&d->parent_obj); object_unref(&d->inner); }
void other(int *counter) { __atomic_fetch_add(&counter[40], 1, __ATOMIC_SEQ_CST); }
"""
INNER = 8 * 5 + 8 * 20 + 24


def compiled(tmp_path: Path, *options: str) -> tuple[ElfFile, bytes, int]:
    """Compile :data:`SOURCE` to a shared object; return it, its code and where that is."""
    out = tmp_path / "copies.so"
    command = ["gcc", "-x", "c", "-", "-shared", "-fPIC", "-nostdlib", "-o", str(out), *options]
    subprocess.run(command, input=SOURCE, text=True, check=True)
    elf = ElfFile(out.read_bytes(), str(out))
    segment = next(s for s in elf.segments if s.type == 1 and s.flags & 1)
    code = bytes(elf.data[segment.offset : segment.offset + segment.filesz])
    return elf, code, segment.vaddr


@pytest.mark.parametrize("optimise", ["-O0", "-O1", "-O2", "-O3", "-Os"])
def test_the_two_functions_are_found(tmp_path: Path, optimise: str) -> None:
    elf, code, start = compiled(tmp_path, optimise, "-DHIDDEN=__attribute__((noinline))")
    known = [(a, a + n) for a, n, name in elf.functions() if name in ("object_ref", "object_unref")]
    writes = find_writes(code, start, 24, 4, known)
    take, drop = sorted(writes)
    assert (take.operation, take.amount, take.doubt) == ("xadd", 1, 0)
    assert (drop.operation, drop.amount) in (("sub", 1), ("xadd", -1))
    assert known[0][0] <= take.address < known[0][1] <= drop.address


def test_inlined_copies_are_found_inside_others(tmp_path: Path) -> None:
    _, code, start = compiled(tmp_path, "-O2", "-DHIDDEN=static inline")
    writes = find_writes(code, start, 24, 4)
    places = sorted((w.displacement, w.operation) for w in writes)
    # Two takes and two drops, one on an object and one on another within it; no other counter.
    assert places == [(24, "sub"), (24, "xadd"), (24, "xadd"), (INNER, "sub")]
    dump = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(tmp_path / "copies.so")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    locked = {int(a, 16) for a in re.findall(r"^ *([0-9a-f]+):\tlock", dump, re.MULTILINE)}
    assert {w.address for w in writes} < locked
    starts = {int(a, 16) for a in re.findall(r"^ *([0-9a-f]+):\t", dump, re.MULTILINE)}
    assert {w.watch for w in writes} <= starts


@pytest.mark.parametrize(
    ("code", "operation", "place", "amount"),
    [
        ("f0 ff 47 18", "add", (("rdi", 1),), 1),  # lock incl 0x18(%rdi)
        ("f0 ff 4b 18", "sub", (("rbx", 1),), 1),  # lock decl 0x18(%rbx)
        ("f0 83 43 18 ff", "add", (("rbx", 1),), -1),  # lock addl $-1,0x18(%rbx)
        ("f0 81 6f 18 01 00 00 00", "sub", (("rdi", 1),), 1),  # lock subl $1,0x18(%rdi)
        ("f0 41 83 6c 24 18 01", "sub", (("r12", 1),), 1),  # lock subl $1,0x18(%r12)
        ("f0 42 83 44 38 18 01", "add", (("rax", 1), ("r15", 1)), 1),
        ("83 c8 ff f0 0f c1 43 18", "xadd", (("rbx", 1),), -1),  # or $-1,%eax; lock xadd %eax,..
        ("41 b8 01 00 00 00 f0 44 0f c1 47 18", "xadd", (("rdi", 1),), 1),
        ("f0 0f b1 57 18", "cmpxchg", (("rdi", 1),), None),
    ],
)
def test_every_form_of_an_atomic_change(
    code: str, operation: str, place: tuple[tuple[str, int], ...], amount: int | None
) -> None:
    raw = bytes.fromhex(code)
    (write,) = find_writes(raw + b"\x90" * 8, 0x1000, 24, 4)
    assert (write.operation, write.place, write.amount) == (operation, place, amount)
    assert write.watch == 0x1000 + len(raw)


@pytest.mark.parametrize(
    "code",
    [
        "f0 83 44 24 18 01",  # on the stack
        "f0 83 05 18 00 00 00 01",  # a variable
        "f0 48 83 47 18 01",  # eight bytes
        "f0 83 47 18 02",  # by two
        "f0 83 4f 18 00",  # or: a barrier
        "83 47 18 01",  # not atomic
        "f0 83 47 1c 01",  # the field after it
        "f0 83 47",  # cut off
    ],
)
def test_what_is_no_change_of_a_count(code: str) -> None:
    assert find_writes(bytes.fromhex(code), 0x1000, 24, 4) == []


def test_what_a_sample_says() -> None:
    (take,) = find_writes(bytes.fromhex("ba01000000 f00fc15718 90"), 0, 24, 4)
    assert take.count_at({"rdi": 0x5000, "rdx": 7}) == 0x5018
    assert take.change({"rdi": 0x5000, "rdx": 7}, False, True) == Change(1, 7)
    (drop,) = find_writes(bytes.fromhex("f0836f1801 90"), 0, 24, 4)
    assert drop.change({"rdi": 0x5000}, False, True) == Change(-1, None)
    assert drop.change({"rdi": 0x5000}, True, True) == Change(-1, 1)
    (swap,) = find_writes(bytes.fromhex("f00fb15718 90"), 0, 24, 4)
    assert swap.change({"rdi": 0, "rax": 3, "rdx": 4}, True, True) == Change(1, 3)
    assert swap.change({"rdi": 0, "rax": 3, "rdx": 4}, False, True) is None
    # An amount that only a register has is seen before it is used.
    (unknown,) = find_writes(bytes.fromhex("f00fc15718 90"), 0x100, 24, 4)
    assert unknown.watch == 0x100
    assert unknown.change({"rdi": 0, "rdx": 0xFFFFFFFF}, False, False) == Change(-1, None)
    # Behind it the register has the old count, and nothing says what was added.
    assert unknown.change({"rdi": 0, "rdx": 7}, False, True) == Change(None, 7)


@pytest.mark.unit
def test_a_change_that_is_not_known_is_neither_a_take_nor_a_drop() -> None:
    seen = Event(0, 7, 0x1000, None, None, (), b"")
    assert (seen.takes, seen.drops, seen.left) == (False, False, None)
    drop = seen._replace(by=-1, old=1)
    assert (drop.takes, drop.drops, drop.left) == (False, True, 0)
    step = SimpleNamespace(event=seen, frames=[])
    line = event_line(step, None, 0, "main 7")
    assert re.search(r"  \?   \?  -  .* an unknown place  \[main 7\]$", line)
    assert "-1   0" in event_line(SimpleNamespace(event=drop, frames=[]), 0, 0, "main 7")


def test_a_place_that_is_jumped_to_is_not_taken_for_the_change() -> None:
    # je over the change, to the instruction after it.
    raw = bytes.fromhex("4885ff 7405 f0836f1801 c3") + b"\x90" * 8
    (write,) = find_writes(raw, 0, 24, 4)
    assert write.watch == write.address == 5


def test_another_processor_is_told() -> None:
    with open("/bin/true", "rb") as file:
        raw = bytearray(file.read())
    struct.pack_into("<H", raw, 18, 183)
    with pytest.raises(TargetError, match="ELF machine 183"):
        arch_of(ElfFile(bytes(raw), "an arm64 program"))


# Call frames -------------------------------------------------------------------------


def test_expressions() -> None:
    # DW_OP_breg7 8; DW_OP_breg16 0; lit15; and; lit11; ge; lit3; shl; plus: that of .plt
    plt = bytes.fromhex("77 08 80 00 3f 1a 3b 2a 33 24 22")
    registers: list[int | None] = [0] * 17
    registers[7], registers[16] = 0x7000, 0x40000B
    assert evaluate(plt, registers, lambda address: 0) == 0x7010
    registers[16] = 0x40000A
    assert evaluate(plt, registers, lambda address: 0) == 0x7008
    assert evaluate(b"\x06", registers, {8: 9}.__getitem__, 8) == 9
    for damaged in (b"", b"\x22", b"\x0e\1", b"\x77", b"\xff"):
        with pytest.raises(NoRule):
            evaluate(damaged, registers, lambda address: 0)
    assert leb(b"\xe5\x8e\x26", 0, False) == (624485, 3)
    assert leb(b"\x80\x7f", 0, True) == (-128, 2)
    with pytest.raises(NoRule):
        leb(b"\x80" * 30, 0, False)


def test_rules_of_a_function_and_damage(tmp_path: Path) -> None:
    elf, _, _ = compiled(tmp_path, "-O0", "-DHIDDEN=__attribute__((noinline))")
    start = next(a for a, _, name in elf.functions() if name == "object_unref")
    frames = Frames(elf)
    assert frames.is_start(start) and not frames.is_start(start + 1)
    assert frames.step(start).cfa == (7, 8)  # rsp+8 at the entry
    assert frames.step(start + 1).cfa == (7, 16)  # push %rbp
    assert frames.step(start + 4).cfa == (6, 16)  # mov %rsp,%rbp
    with pytest.raises(NoRule):
        frames.step(0x10_0000_0000)
    # Whatever the file holds, there is a rule or none.
    raw = bytearray(bytes(elf.data))
    at = next(s.offset for s in elf.segments if s.type == 0x6474E550)
    for i in range(at, min(at + 400, len(raw))):
        raw[i] = os.urandom(1)[0]
        broken = Frames(ElfFile(bytes(raw), "broken"))
        for address in (start, start + 4):
            try:
                broken.step(address)
            except NoRule:
                continue


# Names -------------------------------------------------------------------------------


def test_a_process_that_has_ended_has_no_lines(tmp_path: Path) -> None:
    elf, _, start = compiled(tmp_path, "-g", "-DHIDDEN=")
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        # Nobody has waited for it: its files in /proc are there, and lead nowhere.
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        with pytest.raises(FileNotFoundError):
            os.readlink(f"/proc/{child}/exe")
        assert find_lines(elf, f"/proc/{child}/exe", [start]) == {}
    finally:
        os.waitpid(child, 0)


def test_what_addr2line_says() -> None:
    text = """0x0000000000711f12
object_ref
/b/tree/build/../src/qom/object.c:1217
0x0000000000002ff0
??
??:0
0x00000000005a1234
take_inline
/b/tree/build/../src/hw/a.c:31 (discriminator 3)
outer
/b/tree/build/../src/hw/a.c:?
"""
    found = parse_addr2line(text)
    assert found == {
        0x711F12: [Line("object_ref", "/b/tree/src/qom/object.c", 1217)],
        0x5A1234: [Line("take_inline", "/b/tree/src/hw/a.c", 31), Line("outer")],
    }
    root = source_root(found, "qom/object.c")
    assert relative("/b/tree/src/hw/a.c", root) == "hw/a.c"
    assert relative("/usr/include/x.h", root) == "/usr/include/x.h"


def frame(name: str, plumbing: bool = True) -> Frame:
    return Frame(name, None, None, "qemu+0x1", 1, "symbol", plumbing)


def test_what_a_call_site_says() -> None:
    assert kinds_of([frame("address_space_init"), frame("x", False)]) == {"address-space-root"}
    assert kinds_of([frame("object_property_try_add_child")]) == {"child"}
    assert kinds_of([frame("qdev_set_parent_bus")]) == {"bus-child", "parent-bus"}
    assert kinds_of([frame("qemu+0x10"), frame("flatview_new")]) == {"flatview-root"}
    # What a device does while it is made is no making of its own.
    assert kinds_of([frame("my_init", False), frame("object_initialize_with_type")]) == set()


# Trees -------------------------------------------------------------------------------


def change(by: int, *stack: str) -> SimpleNamespace:
    frames = [Frame(name, None, None, f"qemu+{name}", 1, "symbol", False) for name in stack[::-1]]
    return SimpleNamespace(event=Event(0, 1, 0x1000, by, None, (), b""), frames=frames)


@pytest.mark.unit
def test_what_balances_is_folded_away_and_shown_on_request() -> None:
    steps = [
        change(1, "plug", "realize", "add_subregion"),
        change(1, "plug", "set_parent"),
        change(1, "plug", "borrow"),
        change(-1, "plug", "borrow"),
        change(-1, "unplug", "unparent"),
    ]
    lines = [line.strip() for line in tree_lines(balance_tree(steps))]
    assert lines[0] == "+2 plug (3 taken, 1 dropped)"
    assert set(lines[1:3]) == {"+1 realize > add_subregion", "+1 set_parent"}
    assert lines[3:] == ["-1 unplug > unparent", "1 places that balance are not shown"]
    every = [line.strip() for line in tree_lines(balance_tree(steps, True), True)]
    assert "+0 borrow (1 taken, 1 dropped)" in every and len(every) == len(lines)
    names = [
        [below["function"] for below in node["below"]] for node in tree_json(balance_tree(steps))
    ]
    assert names == [["realize", "set_parent"], ["unparent"]]
    assert list(folded(steps))[:2] == ["plug;borrow;drop 1", "plug;borrow;take 1"]
