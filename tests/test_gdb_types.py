"""GDBs old and new: types of a stripped QEMU, and layouts from debug information.

The machine's own GDB, and the newest one that there is.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gdbtool import Gdb, GdbRefused, debug_qemu

from qmrinspect.hotplug.vm import Vm
from qmrinspect.layout import load
from qmrinspect.layout.find import profiles
from qmrinspect.layout.typefile import type_file

GDBS = ("gdb", str(Path(sys.executable).with_name("gdb")))


@pytest.fixture(scope="module", params=("stripped", "symbols"))
def vm(request: pytest.FixtureRequest) -> Iterator[Vm]:
    qemu = debug_qemu() if request.param == "symbols" else "qemu-system-x86_64"
    with Vm(qemu, extra=("-device", "e1000e,id=nic0")) as vm:
        yield vm


@pytest.mark.timeout(180)
@pytest.mark.parametrize("program", GDBS, ids=("own", "newest"))
def test_types_and_layouts(program: str, vm: Vm, tmp_path: Path) -> None:
    typed = vm.argv[0] == debug_qemu()
    with Gdb("-p", vm.pid, program=program, env={"XDG_CACHE_HOME": str(tmp_path)}) as gdb:
        # Before any verb, too.
        space = gdb.run("print *(AddressSpace *)&address_space_memory")
        assert "<memory, root system " in space
        report = gdb.json("qmr check --json")
        assert report["exact"] == report["objects"] > 200
        assert report["target"]["layout"].split(":")[0] == ("dwarf" if typed else "profile")
        assert "<e1000e /machine/peripheral/nic0 " in gdb.run('print *$qmr("nic0")')
        address = gdb.run('output/x (long)$qmr("nic0")')
        shown = gdb.run(f"print/r *(Object *){address}")
        assert "class = 0x" in shown and "parent = 0x" in shown
        kind = gdb.run(f"print ((Object *){address})->class->type->name")
        assert kind.endswith('"e1000e"\n')
        owner = gdb.run("output ((AddressSpace *)&address_space_memory)->root->parent_obj.ref")
        assert int(owner) > 0
        assert "e1000e" in gdb.run(f"qmr show (Object *){address}")
        with pytest.raises(GdbRefused, match="Cannot access memory"):
            gdb.run("print *(Object *)16")
        said = gdb.close()
    # What takes seconds while the VM stands is told.
    assert ("GDB reads the debug information of " in said) == typed


def test_the_file_of_types_is_what_the_layout_says(tmp_path: Path) -> None:
    layout = load(profiles()[-1], "it")
    path = tmp_path / "types.o"
    path.write_bytes(type_file(layout))
    questions = [(f"sizeof({name})", row.size) for name, row in layout.structs.items()] + [
        (f"(long)&(({name} *)0)->{field}", offset)
        for name, row in layout.structs.items()
        for field, (offset, _size) in row.fields.items()
        if "." not in field and not field.startswith("_")
    ]
    script = tmp_path / "ask.py"
    words = [text for text, _ in questions]
    script.write_text(
        "import gdb\n"
        f"for text in {words!r}:\n"
        "    try: print(int(gdb.parse_and_eval(text)))\n"
        "    except gdb.error as error: print(text, error)\n"
    )
    done = subprocess.run(
        [
            "gdb",
            "-nx",
            "-batch",
            "-ex",
            "with confirm off -- add-symbol-file " + str(path),
            "-x",
            str(script),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    answers = done.stdout.splitlines()[-len(questions) :]
    wrong = [
        (text, wanted, answer)
        for (text, wanted), answer in zip(questions, answers)
        if answer != str(wanted)
    ]
    assert len(answers) == len(questions) > 200 and not wrong
