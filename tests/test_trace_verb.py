"""The verb trace on the command line, and beside a debugger and a prompt."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DEVICES, Qmr, Ran
from gdbtool import Gdb, GdbRefused
from terminal import Terminal
from test_process import runs

from qmrinspect.hotplug.vm import Vm


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    """Return a stock QEMU to plug into."""
    with Vm(extra=("-name", "guest=traced,debug-threads=on", *DEVICES)) as started:
        yield started


def plug(vm: Vm, driver: str, id: str) -> None:
    with vm.monitor() as monitor:
        monitor.execute("device_add", {"driver": driver, "id": id})


# The verb ----------------------------------------------------------------------------


def test_a_plug_is_traced_from_birth(vm: Vm, qmr: Qmr) -> None:
    data = qmr(vm.pid, "trace", "--plug", "intel-hda", "id=h1", "--json").json
    assert data["format"] == "qmr-trace/1"
    assert (data["lost"], data["lost_counted"], data["method"]) == (0, True, "execution")
    device = data["objects"][0]
    assert device["address"] == data["object"]
    assert (device["type"], device["born"], device["refused"]) == ("intel-hda", True, "")
    assert device["observed"] == device["taken"] - device["dropped"]
    assert len(device["references"]) == device["observed"] and not device["unnamed"]
    kinds = sorted(ref["kind"] for ref in device["references"])
    assert kinds == ["address-space-root", "bus-child", "child", *["subregion"] * 3]
    by_kind = {ref["kind"]: ref for ref in device["references"]}
    # As everywhere: of a holder that is no object, the path of the one that it works for.
    assert {ref["target"] for ref in device["references"]} == {device["address"]}
    assert all(ref["holder_path"] for ref in device["references"])
    stack = [frame["function"] for frame in by_kind["bus-child"]["taken"]["stack"]]
    assert stack[:2] == ["qdev_set_parent_bus", "qdev_realize"]
    assert by_kind["bus-child"]["evidence"] == "site+witness"
    for one in data["objects"]:
        assert not one["refused"] and not one["unnamed"]
        assert one["observed"] == one["taken"] - one["dropped"]


def test_text_tree_and_folded_stacks(vm: Vm, qmr: Qmr) -> None:
    done = qmr(vm.pid, "trace", "--plug", "e1000", "id=t1", "--tree")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "t1 (e1000) is plugged"
    assert lines[1].startswith("t1 (e1000): ") and lines[1].endswith("remain")
    assert any("qdev_set_id" in line for line in lines)
    tree = [line for line in lines if line.lstrip().startswith(("+", "-"))]
    assert any("qmp_device_add" in line for line in tree)
    folded = qmr(vm.pid, "trace", "--plug", "e1000", "id=t2", "--folded").out.splitlines()
    assert all(line.rsplit(" ", 1)[1].isdigit() for line in folded)
    assert any(line.startswith("qmp_device_add;") and ";take " in line for line in folded)


def follow(vm: Vm, object: str, seconds: float, *options: str) -> Ran:
    """Trace an object in a process of its own while a device comes and goes."""
    command = [sys.executable, "-m", "qmrinspect", str(vm.pid), "trace", object, *options]
    command += ["--for", str(seconds)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as one:
        assert one.stdout is not None and one.stderr is not None
        first = one.stdout.readline()
        plug(vm, "rtl8139", "f1")
        out = first + one.stdout.read()
        return Ran(one.wait(30), out, one.stderr.read())


def test_a_live_object_is_followed(vm: Vm) -> None:
    done = follow(vm, "/machine/i440fx/pci.0", 3)
    assert done.code == 0, done.err
    first, *rest = done.out.splitlines()
    count = int(first.split(" has ")[1].split()[0])
    taken = next(line for line in rest if "+1" in line)
    assert "parent-bus" in taken and f" {count + 1} " in taken
    assert "qdev_set_parent_bus < " in taken and "[qemu-system-x86 " in taken
    end = next(line for line in rest if line.endswith(f"{count + 1} remain"))
    assert "since the trace began" in end
    assert any("qdev_set_parent_bus" in line for line in rest[rest.index(end) :])
    assert any("taken before the trace began" in line for line in rest)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["trace"], "trace takes an object, or --plug and a device type"),
        (["trace", "nic0", "--plug", "e1000"], "trace takes an object, or --plug"),
        (["trace", "nic0", "--for", "-1"], "argument --for: it takes a number from 0"),
        (["trace", "nothing"], "there is no object nothing"),
        (["trace", "--plug", "nothing"], "this QEMU has no device nothing"),
    ],
)
def test_what_makes_no_sense_is_told(vm: Vm, qmr: Qmr, words: list[str], text: str) -> None:
    done = qmr(vm.pid, *words)
    assert done.code == 2
    assert text in done.err


def test_an_unplug_says_what_dropped_and_what_did_not(vm: Vm, qmr: Qmr) -> None:
    qmr(vm.pid, "plug", "bochs-display", "id=b1")
    done = qmr(vm.pid, "unplug", "b1", "--trace", "--json")
    assert done.code == 1
    data = done.json
    device = data["trace"]["objects"][0]
    assert device["type"] == "bochs-display"
    assert device["observed"] == 3 and device["dropped"] == 5 and not device["refused"]
    assert [ref["kind"] for ref in device["unnamed"]] == ["subregion"] * 3
    droppers = {frame["function"] for event in device["events"] for frame in event["stack"]}
    assert {"object_unparent", "memory_region_del_subregion"} <= droppers


def test_a_finding_ends_with_the_line(vm: Vm, qmr: Qmr) -> None:
    done = qmr(vm.pid, "hunt", "--yes", "piix3-usb-uhci", "--trace", "--json")
    row = done.json if done.out.count("\n") == 1 else None
    rows = [line for line in done.out.splitlines() if '"device"' in line]
    assert row is None and len(rows) == 1
    assert "taken in usb_uhci_common_realize, never dropped" in rows[0]


@pytest.mark.timeout(120)
def test_the_demo_names_the_takers() -> None:
    command = [sys.executable, "-m", "qmrinspect", "demo", "--trace"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 1, done.stderr
    found = [line for line in done.stdout.splitlines() if line.endswith(", never dropped")]
    for device in ("intel-hda", "bochs-display"):
        assert any(f"{device} dut" in line and f"taken in {device}" in line for line in found)


def test_saved_snapshots_and_cores_are_not_traced(vm: Vm, qmr: Qmr, tmp_path: Path) -> None:
    file = tmp_path / "one"
    qmr(vm.pid, "save", file)
    done = qmr("--snapshot", file, "trace", "nic0")
    assert done.code == 2
    assert "a saved snapshot is no process" in done.err


# Beside a debugger, and a prompt -----------------------------------------------------


@pytest.mark.parametrize("gdb", ["stopped", "running"])
def test_a_process_that_gdb_holds_is_traced(tmp_path: Path, gdb: str) -> None:
    ready = tmp_path / "ready"
    with Vm(extra=DEVICES) as held:
        script = ["set pagination off", f"shell touch {ready}"]
        script.append("continue" if gdb == "running" else "shell sleep 50")
        command = ["gdb", "-nx", "-q", "-batch", "-p", str(held.pid)]
        command += [word for line in script for word in ("-ex", line)]
        null = subprocess.DEVNULL
        with subprocess.Popen(command, stdin=null, stdout=null, stderr=null) as debugger:
            for _ in range(300):
                if ready.exists():
                    break
                time.sleep(0.1)
            if gdb == "running":
                time.sleep(0.5)
                done = follow(held, "/machine/i440fx/pci.0", 3)
                assert "qdev_set_parent_bus < " in done.out, done.err
            else:
                command = [sys.executable, "-m", "qmrinspect", str(held.pid), "trace", "nic0"]
                out = subprocess.run([*command, "--for", "1"], capture_output=True, text=True)
                assert "0 taken, 0 dropped since the trace began" in out.stdout, out.stderr
            debugger.kill()


def test_gdb_says_that_a_second_tracer_is_needed(vm: Vm) -> None:
    with Gdb("-p", vm.pid) as gdb:
        with pytest.raises(GdbRefused) as refused:
            gdb.run("qmr trace nic0")
        assert "a trace needs a second tracer beside it" in str(refused.value)
        assert f"qmr {vm.pid} trace OBJ" in str(refused.value)
    assert runs(vm)


def test_a_trace_beside_the_prompt(fresh_vm: Vm, tmp_path: Path) -> None:
    with Terminal(fresh_vm.pid, "repl", home=tmp_path) as terminal:
        terminal.wait(lambda t: "prelaunch" in t.bar, "the VM in the status bar")
        terminal.enter("trace /machine/i440fx/pci.0")
        terminal.wait("beside the prompt; trace --off ends it")
        terminal.wait("its changes")
        terminal.enter("plug e1000 id=n9")
        terminal.wait("qdev_set_parent_bus < ")
        terminal.enter("trace")
        terminal.wait("traced: /machine/i440fx/pci.0")
        terminal.enter("trace --off")
        terminal.wait("1 taken, 0 dropped since the trace began")
    assert runs(fresh_vm)
