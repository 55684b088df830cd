"""Traces of a live QEMU: what they add up to, what they refuse, and that nothing is left."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import DEVICES, Qmr, Ran
from gdbtool import Gdb, GdbRefused
from terminal import Terminal
from test_process import runs

from qmrinspect.errors import TargetError
from qmrinspect.hotplug.vm import Vm
from qmrinspect.reading import Reader
from qmrinspect.snapshot import Snapshot
from qmrinspect.target.process import Process
from qmrinspect.trace import perf, ring
from qmrinspect.trace.arch import arch_of
from qmrinspect.trace.life import Reading
from qmrinspect.trace.perf import Probe, Tracer
from qmrinspect.trace.recorder import Recording
from qmrinspect.trace.tracing import Tracing, tracing_of


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    """Return a stock QEMU to plug into."""
    with Vm(extra=("-name", "guest=traced,debug-threads=on", *DEVICES)) as started:
        yield started


@pytest.fixture(scope="module")
def reader(vm: Vm) -> Reader:
    return Reader(Process(vm.pid))


def plug(vm: Vm, driver: str, id: str) -> None:
    with vm.monitor() as monitor:
        monitor.execute("device_add", {"driver": driver, "id": id})


def traced(
    reader: Reader, tracing: Tracing, work: Callable[[], None]
) -> tuple[Recording, Snapshot, tuple[int, int]]:
    """Trace while ``work`` is done; return what was recorded and a reading of the end."""
    tracing.start()
    try:
        work()
        begin = time.monotonic_ns()
        snapshot = reader.read()
        span = begin, time.monotonic_ns()
        return tracing.stop(), snapshot, span
    finally:
        tracing.close()


def others(vm: Vm, reader: Reader, count: int) -> Tracer:
    """Take so many of the four breakpoints, at places that nothing reaches."""
    base, arch = reader.target.base(), arch_of(reader.target.elf())
    return Tracer(vm.pid, arch, [Probe(base + 0x40 + 8 * n) for n in range(count)])


# Truth -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["execution", "write", "uprobe"])
def test_every_method_adds_up(vm: Vm, reader: Reader, method: str) -> None:
    snapshot = reader.read()
    bus = next(b.address for b in snapshot.buses.values() if b.name == "pci.0")
    device = next(d.address for d in snapshot.devices.values() if d.id == "nic0")
    only = [bus] if method == "write" else [bus, device, *list(snapshot.objects)[:6]]
    with contextlib.ExitStack() as stack:
        if method != "execution":
            # Another trace has all breakpoints but one, or all.
            stack.callback(others(vm, reader, 3 if method == "write" else 4).close)
        tracing = tracing_of(reader, only)
        tracing.start()
        stack.callback(tracing.close)
        before = tracing.count(bus)
        plug(vm, "e1000", f"m-{method}")
        begin = time.monotonic_ns()
        after = reader.read()
        span = begin, time.monotonic_ns()
        recording = tracing.stop()
    assert recording.method == method
    assert recording.lost == 0
    life = tracing.life(recording, bus, Reading(after.objects[bus].ref, *span), before)
    assert before is not None and not life.refused
    assert life.count == before.ref + life.taken - life.dropped
    assert any(f.name == "qdev_set_parent_bus" for step in life.steps for f in step.frames)


def test_objects_born_in_a_trace_add_up_and_older_ones_are_refused(vm: Vm, reader: Reader) -> None:
    tracing = tracing_of(reader)
    recording, snapshot, span = traced(reader, tracing, lambda: plug(vm, "virtio-scsi-pci", "s1"))
    assert recording.lost == 0
    born = [a for a in recording.events if a in snapshot.objects]
    assert len(born) > 20
    for address in born:
        count = snapshot.objects[address].ref
        assert not tracing.life(recording, address, Reading(count, *span)).refused
        assert sum(event.by for event in recording.events[address]) == count
    bus = next(b.address for b in snapshot.buses.values() if b.name == "pci.0")
    old = tracing.life(recording, bus, Reading(snapshot.objects[bus].ref, *span))
    assert old.refused == "it was born before the trace began"
    # One event less, and it does not add up any more.
    device = next(d.address for d in snapshot.devices.values() if d.id == "s1")
    events = dict(recording.events)
    events[device] = [e for e in events[device] if e.old == 0] + list(events[device][2:])
    short = recording._replace(events=events)
    count = snapshot.objects[device].ref
    refused = tracing.life(short, device, Reading(count, *span)).refused
    assert refused == (
        f"what was seen of it adds up to {count - 1}, its count is {count}: something that was not "
        "watched changes it"
    )
    refused = tracing.life(short._replace(lost=3), device, Reading(count, *span)).refused
    assert refused.endswith(": 3 events were lost")


def test_lost_events_are_counted_and_told(
    vm: Vm, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "_RING_MAX", 128 << 10)
    tracing = tracing_of(reader)
    tracing.start()
    # Nobody reads the rings for as long as the plug takes.
    held = threading.Event()
    drain = Tracer.drain
    monkeypatch.setattr(Tracer, "drain", lambda t: drain(t) if held.is_set() else [])
    plug(vm, "virtio-serial-pci", "l1")
    held.set()
    snapshot = reader.read()
    now = time.monotonic_ns()
    recording = tracing.stop()
    assert recording.lost > 100
    device = next(d.address for d in snapshot.devices.values() if d.id == "l1")
    life = tracing.life(recording, device, Reading(snapshot.objects[device].ref, now, now))
    assert life.refused
    assert "lost" in life.refused or "born before" in life.refused


# Refusals ----------------------------------------------------------------------------


def test_breakpoints_in_use_are_told(
    vm: Vm, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perf, "_uprobe_type", refuse)
    tracing = tracing_of(reader)
    other = others(vm, reader, 4)
    try:
        with pytest.raises(TargetError, match=r"fewer breakpoints left .*debugger or the other"):
            tracing.start()
    finally:
        other.close()
        tracing.close()


def refuse() -> int:
    raise TargetError("no uprobes")


def test_another_user_is_told_what_helps(vm: Vm) -> None:
    if os.geteuid():
        pytest.fail("this test becomes somebody else, which takes root")
    told, tell = os.pipe()
    process = Process(vm.pid)
    arch = arch_of(process.elf())
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            Tracer(vm.pid, arch, [Probe(process.base() + 0x40)])
        except TargetError as error:
            os.write(tell, str(error).encode())
        finally:
            os._exit(0)
    os.close(tell)
    os.waitpid(child, 0)
    with os.fdopen(told) as answer:
        assert "it belongs to uid 0: run qmr as that user or as root" in answer.read()


def test_the_same_user_needs_no_root(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.fail("this test becomes somebody else, which takes root")
    script = tmp_path / "as_nobody.py"
    script.write_text(AS_NOBODY)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o5)
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, str(script), str(root)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout.split() == ["execution", "0", "True"] * 2, done.stderr


AS_NOBODY = """
import os, sys, tempfile
sys.path.insert(0, sys.argv[1])
from qmrinspect.hotplug.vm import Vm
from qmrinspect.reading import Reader
from qmrinspect.target.process import Process
from qmrinspect.trace.tracing import tracing_of
os.environ["HOME"] = tempfile.mkdtemp()
os.chown(os.environ["HOME"], 65534, 65534)

def trace():
    with Vm() as vm:
        reader = Reader(Process(vm.pid))
        tracing = tracing_of(reader)
        tracing.start()
        with vm.monitor() as monitor:
            monitor.execute("device_add", {"driver": "e1000", "id": "e"})
        recording = tracing.stop()
        print(recording.method, recording.lost, len(recording.events) > 5)

trace()  # imports what nobody may not read
os.setgroups([]); os.setgid(65534); os.setuid(65534)
trace()
"""


# Safety ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_trace_that_is_ended_leaves_the_vm_running(vm: Vm, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "qmrinspect", str(vm.pid), "trace", "nic0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdout is not None
        assert "its changes" in tracer.stdout.readline()
        plugging = threading.Thread(target=plug, args=(vm, "e1000", f"k{how}"))
        plugging.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            tracer.wait(random.Random(how).uniform(0.0, 0.05))
        tracer.send_signal(how)
        plugging.join(20)
        out = tracer.stdout.read()
        tracer.wait(20)
    if how is signal.SIGINT:
        # Asked to end, it says what it saw.
        assert tracer.returncode == 0
        assert "since the trace began" in out
    assert runs(vm)
    # Its breakpoints are gone: all four can be had.
    others(vm, Reader(Process(vm.pid)), 4).close()


def test_a_vm_that_dies_ends_the_trace(qmr: Qmr) -> None:
    with Vm(extra=DEVICES) as dying:
        command = [sys.executable, "-m", "qmrinspect", str(dying.pid), "trace", "nic0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tracer:
            assert tracer.stdout is not None
            assert "its changes" in tracer.stdout.readline()
            dying.close()
            assert tracer.wait(20) in (0, 2)


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
