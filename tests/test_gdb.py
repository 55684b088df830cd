"""qmr inside a real GDB: live, core, gdbserver, with and without debug information."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gdbtool import PATIENCE, ROOT, SCRIPT, Gdb, complete, refusal
from gdbvms import debug, hunt, runs, stock

from qmrinspect.fronts.shell.table import EVERY
from qmrinspect.hotplug.vm import Vm


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    with stock() as vm:
        yield vm


@pytest.fixture(scope="module")
def gdb(vm: Vm) -> Iterator[Gdb]:
    """Return a GDB on the stripped QEMU; nothing lets that run."""
    with Gdb("-p", vm.pid) as gdb:
        yield gdb


@pytest.fixture(scope="module")
def typed_vm() -> Iterator[Vm]:
    with debug() as vm:
        yield vm


@pytest.fixture(scope="module")
def typed(typed_vm: Vm) -> Iterator[Gdb]:
    """Return a GDB on the QEMU that has debug information."""
    with Gdb("-p", typed_vm.pid) as gdb:
        yield gdb


# The verbs -------------------------------------------------------------------------


def test_every_verb_of_the_table_is_there_with_its_help(gdb: Gdb) -> None:
    overview = gdb.run("help qmr")
    for verb in EVERY.values():
        if "gdb" in verb.fronts:
            assert f"qmr {verb.name} -- " in overview
            assert f"usage: qmr {verb.name}" in gdb.run(f"help qmr {verb.name}")
        else:
            said = refusal(gdb, f"qmr {verb.name}")
            assert "inside GDB" in said and "\n" not in said


def test_the_books_of_a_stripped_qemu_balance(gdb: Gdb) -> None:
    report = gdb.json("qmr check --json")
    assert report["target"]["kind"] == "process"
    assert report["target"]["layout"].startswith("profile:")
    named = report["refs_explained"] + report["refs_by_rule"]
    assert named >= 0.95 * report["refs_observed"]
    assert gdb.run("p $_qmr_exitcode").split()[-1] == "0"


def test_it_says_the_same_as_the_command_line() -> None:
    with stock() as vm:
        shell = subprocess.run(
            [sys.executable, "-m", "qmrinspect", "--pid", str(vm.pid), "refs", "nic0"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        with Gdb("-p", vm.pid) as gdb:
            assert gdb.run("qmr refs nic0") == shell.stdout


@pytest.mark.parametrize(
    "words",
    [
        "/machine/peripheral/nic0",
        "peripheral/nic0",
        '$qmr("nic0")',
        '(void *) $qmr("nic0")',
        '(void *)((unsigned long) $qmr("nic0") + 0)',
        "'nic0' ",
    ],
)
def test_an_object_may_be_named_in_many_ways(gdb: Gdb, words: str) -> None:
    wanted = gdb.json("qmr refs --json nic0")["object"]
    assert gdb.json(f"qmr refs --json {words}")["object"] == wanted
    assert gdb.json(f"qmr refs {words} --json")["object"] == wanted


def test_the_value_history_names_objects(gdb: Gdb) -> None:
    gdb.run('p $qmr("nic0")')
    assert gdb.json("qmr refs $ --json")["object"]["id"] == "nic0"


def test_a_reading_is_kept_for_as_long_as_nothing_changes(gdb: Gdb) -> None:
    first = gdb.json("qmr check --json")["capture"]
    assert gdb.json("qmr check --json")["capture"] == first
    gdb.run("set var *(char *)$sp = *(char *)$sp")
    assert gdb.json("qmr check --json")["capture"] != first


# What goes wrong -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("qmr refs nicc", "did you mean nic0"),
        ("qmr refs", "required: OBJ"),
        ("qmr refs nic0 --nonsense", "--nonsense"),
        ("qmr refs (void *) 8", "no live object"),
        ("qmr refs (void *) 0", "NULL"),
        ("qmr refs $qmr(", "GDB cannot evaluate"),
        ('qmr refs "nic0', "quote"),
        ("qmr chekc", "did you mean check"),
        ('p $qmr("nicc")', "did you mean nic0"),
        ("qmr hunt no-such-device", "no-such-device"),
    ],
)
def test_bad_input_gets_one_sentence(command: str, words: str, gdb: Gdb) -> None:
    said = refusal(gdb, command)
    assert words in said
    assert "\n" not in said.strip()
    assert "Traceback" not in said


def test_without_a_process_it_says_what_to_do() -> None:
    with Gdb() as gdb:
        assert "attach PID" in refusal(gdb, "qmr check")
        assert "attach PID" in refusal(gdb, "qmr hunt e1000e")


@pytest.mark.parametrize("debug", ["", " --debug"])
def test_a_wrong_line_shows_no_stack_whatever_the_users_settings(debug: str) -> None:
    lines = ["set python print-stack full", f"source {SCRIPT}", f"qmr check{debug}", "qmr chekc"]
    words = [word for line in lines for word in ("-ex", line)]
    done = subprocess.run(["gdb", "-nx", "-batch", *words], capture_output=True, text=True)
    assert "attach PID" in done.stderr and "did you mean check" in done.stderr
    assert ("Traceback" in done.stderr) == bool(debug)


def test_another_program_is_no_qemu() -> None:
    with Gdb("/bin/true") as gdb:
        gdb.run("starti")
        assert "not a QEMU" in refusal(gdb, "qmr tree")


# Completion ------------------------------------------------------------------------


def test_completion_goes_down_the_tree_step_by_step(gdb: Gdb) -> None:
    assert complete(gdb, "qmr sho") == ["qmr show"]
    assert "qmr show /machine/peripheral/" in complete(gdb, "qmr show /machine/per")
    assert complete(gdb, "qmr show /machine/peripheral/ni") == [
        "qmr show /machine/peripheral/nic0",
        "qmr show /machine/peripheral/nic0/",
    ]
    assert complete(gdb, "qmr show /no/such/") == []


def test_completion_knows_ids_options_and_names_with_spaces(gdb: Gdb) -> None:
    assert complete(gdb, "qmr refs ni") == ["qmr refs nic0"]
    assert complete(gdb, "qmr why --json xh") == ["qmr why --json xhci0"]
    assert complete(gdb, "qmr refs nic0 --js") == ["qmr refs nic0 --json"]
    path = "/machine/peripheral/nic0/bus master c"
    assert f"qmr show {path[:-1]}container[0]" in complete(gdb, f"qmr show {path}")
    assert gdb.json(f"qmr show --json {path[:-1]}container[0]")


def test_completion_knows_drivers(gdb: Gdb) -> None:
    assert "qmr hunt intel-hda" in complete(gdb, "qmr hunt intel-h")
    assert complete(gdb, "qmr plug piix3-usb-u") == ["qmr plug piix3-usb-uhci"]
    assert complete(gdb, "qmr forecast pc-i440fx") == []


def test_short_names_do_the_same(gdb: Gdb) -> None:
    assert gdb.run("qrefs nic0") == gdb.run("qmr refs nic0")
    assert complete(gdb, "qrefs ni") == ["qrefs nic0"]
    for verb in ("tree", "mtree", "why", "check", "orphans", "hunt"):
        assert f"usage: qmr {verb}" in gdb.run(f"help q{verb}")


# How it is loaded ------------------------------------------------------------------


def test_it_says_a_line_when_it_is_loaded(gdb: Gdb) -> None:
    said = gdb.run(f"source {SCRIPT}")
    assert said.count("\n") == 1
    assert "help qmr" in said
    # Past stdout, which belongs to what a script asks for.
    done = subprocess.run(
        ["gdb", "-nx", "-q", "-batch", "-ex", f"source {SCRIPT}"], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("", said)


def test_a_command_of_the_user_keeps_its_name() -> None:
    with Gdb(script=None) as gdb:
        gdb.run("alias qtree = info program")
        gdb.run(f"source {SCRIPT}")
        assert "usage: qmr tree" not in gdb.run("help qtree")
        assert "usage: qmr refs" in gdb.run("help qrefs")


def test_before_the_machine_is_there_it_says_so() -> None:
    with Gdb(shutil.which("qemu-system-x86_64")) as gdb:
        gdb.run("set args -S -display none -nodefaults")
        gdb.run("break main")
        gdb.run("run")
        for verb in ("check", "refs nic0", "tree"):
            said = refusal(gdb, f"qmr {verb}")
            assert said.startswith("this QEMU has no machine yet: continue")
        gdb.run("kill")


def test_it_may_be_sourced_again(gdb: Gdb) -> None:
    gdb.run(f"source {SCRIPT}")
    assert "nic0" in gdb.run("qmr refs nic0")


def test_nothing_third_party_is_imported() -> None:
    modules = "python import json, sys, sysconfig; print(json.dumps({n: getattr(m, '__file__', "
    modules += "None) or '' for n, m in list(sys.modules.items())}))"
    # GLib and libstdc++ bring scripts of their own.
    alone = ("-iex", "set auto-load python-scripts off")
    with stock() as vm, Gdb(*alone, "-p", vm.pid, script=None) as gdb:
        before = gdb.json(modules)
        stdlib = gdb.run("python print(sysconfig.get_path('stdlib'))").strip()
        gdb.run(f"source {SCRIPT}")
        gdb.run("qmr check")
        gdb.run("qmr hunt e1000e")
        loaded = {n: f for n, f in gdb.json(modules).items() if f and n not in before}
    assert "qmrinspect.fronts.gdb.start" in loaded
    own = (stdlib, str(ROOT / "qmrinspect"))
    assert [f for f in loaded.values() if not f.startswith(own) or "-packages" in f] == []


def test_what_no_verb_needs_yet_is_not_loaded() -> None:
    with Gdb() as gdb:
        names = set(gdb.json("python import json, sys; print(json.dumps(list(sys.modules)))"))
    own = {name.split(".")[1] for name in names if name.startswith("qmrinspect.")}
    assert "fronts" in own
    assert not own & {"monitor", "peers", "hotplug", "hunt", "campaign", "pages", "trace"}
    assert "asyncio" not in names and "jinja2" not in names


def test_it_works_from_an_installed_package(vm: Vm, tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    shutil.copytree(ROOT / "qmrinspect", site / "qmrinspect")
    (site / "qmrinspect" / "gdb_script").mkdir()
    script = site / "qmrinspect" / "gdb_script" / "qmr.py"
    shutil.copy(SCRIPT, script)
    for name in ("qemu", "prompt_toolkit", "pygments"):
        (site / f"{name}.py").write_text("raise SystemError('third-party code was imported')")
    with Gdb(script=script) as gdb:
        assert str(site) in gdb.run("python import qmrinspect; print(qmrinspect.__file__)")
        assert "usage: qmr hunt" in gdb.run("help qmr hunt")
        assert str(site) not in gdb.run("python import sys; print(sys.path)").split("'")


# Debug information -----------------------------------------------------------------


def test_the_layout_comes_from_debug_information(typed: Gdb) -> None:
    assert typed.json("qmr check --json")["target"]["layout"] in ("dwarf", "cache")


def test_the_function_returns_an_object(typed: Gdb) -> None:
    typed.run('p $qmr("nic0")')
    assert "type = Object *" in typed.run("whatis $")
    assert typed.run('p $qmr("nic0")->ref').split()[-1] == "10"
    assert typed.run('p $qmr("nic0")->parent == $qmr("/machine/peripheral")').split()[-1] == "1"


def test_fields_name_objects(typed: Gdb) -> None:
    refs = typed.json("qmr refs address_space_memory.root --json")
    assert refs["object"]["path"] == "/machine/unattached/system[0]"
    assert typed.json('qmr show $qmr("nic0")->parent --json')


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ('$qmr("nic0")', ("(Object *) 0x", "virtio-net-pci /machine/peripheral/nic0 10 refs")),
        ('*$qmr("nic0")', ("<virtio-net-pci /machine/peripheral/nic0 10 refs>",)),
        ("address_space_memory.root", ("(MemoryRegion *)", "system 0x0-0xffffffffffffffff")),
        (
            '(MemoryRegion *)$qmr("nic0/msix-table[0]")',
            ("msix-table 0x0-0x3f", "of /machine/peripheral/nic0"),
        ),
        ("address_space_memory", ("memory, root system 0x", "view 0x")),
        ("*address_space_memory.current_map", ("flat view of system", "ranges", "refs")),
    ],
)
def test_values_are_shown_in_one_line(expression: str, words: tuple[str, ...], typed: Gdb) -> None:
    typed.run("qmr check")
    shown = typed.run(f"p {expression}")
    for word in words:
        assert word in shown
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize("kind", ["Object", "MemoryRegion", "AddressSpace", "FlatView"])
@pytest.mark.parametrize(
    "place", ["0", "8", "$sp", "&address_space_memory", "-1", "current_machine"]
)
def test_garbage_does_not_upset_the_printers(kind: str, place: str, typed: Gdb) -> None:
    shown = typed.run(f"p ({kind} *) ({place})")
    assert "Traceback" not in shown and "Python" not in shown


def test_the_fields_are_still_there(typed: Gdb) -> None:
    assert "class = 0x" in typed.run('p/r *$qmr("nic0")')


# Cores and gdbserver ---------------------------------------------------------------


@pytest.mark.parametrize("typed_too", [False, True], ids=["stripped", "debug"])
def test_a_core_says_what_the_process_said(typed_too: bool, tmp_path: Path) -> None:
    core = tmp_path / "core"
    with debug() if typed_too else stock() as vm:
        program = vm.argv[0]
        with Gdb("-p", vm.pid) as gdb:
            live = gdb.json("qmr check --json")
            gdb.run(f"gcore {core}")
        assert runs(vm)
    try:
        with Gdb(program, core) as gdb:
            dead = gdb.json("qmr check --json")
            assert dead["target"]["kind"] == "core"
            for key in ("objects", "refs_observed", "refs_explained", "refs_by_rule", "policy"):
                assert dead[key] == live[key]
            assert gdb.json('qmr refs $qmr("nic0") --json')["object"]["id"] == "nic0"
            assert complete(gdb, "qmr refs tab") == ["qmr refs tab0"]
            assert "live QEMU" in refusal(gdb, "qmr hunt e1000e")
        with Gdb("-c", core) as gdb:
            assert gdb.json("qmr check --json")["objects"] == live["objects"]
    finally:
        core.unlink()


def test_a_gdbserver_is_read_through() -> None:
    with stock() as vm:
        server = subprocess.Popen(
            ["gdbserver", "--once", "--attach", "localhost:0", str(vm.pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            port = _port(server)
            with Gdb("-ex", "set sysroot /", vm.argv[0]) as gdb:
                gdb.run(f"target remote localhost:{port}")
                report = gdb.json("qmr check --json")
                assert report["target"]["kind"] == "remote"
                assert report["exact"] == report["objects"]
                assert hunt(gdb, "bochs-display")["bochs-display"]["outcome"] == "leak"
                gdb.run("detach")
            server.wait(PATIENCE)
            assert runs(vm)
        finally:
            server.kill()
            server.communicate()


def _port(server: subprocess.Popen[bytes]) -> str:
    assert server.stderr is not None
    said = b""
    while True:
        assert select.select([server.stderr], [], [], PATIENCE)[0], said
        said += os.read(server.stderr.fileno(), 4096)
        match = re.search(rb"Listening on port (\d+)", said)
        if match:
            return match.group(1).decode()
