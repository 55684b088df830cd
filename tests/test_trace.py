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
from conftest import DEVICES, Qmr
from test_process import runs

from qmrinspect.errors import TargetError
from qmrinspect.hotplug.vm import Vm
from qmrinspect.reading import Reader
from qmrinspect.snapshot import Snapshot
from qmrinspect.stacks.arch import arch_of
from qmrinspect.target.process import Process
from qmrinspect.trace import perf, ring
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
