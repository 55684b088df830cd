"""Both monitors, against a real QEMU, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Union

import pytest
from conftest import Qmr
from qemu.qmp import QMPClient

from qmrinspect.errors import MonitorError
from qmrinspect.hotplug.vm import Vm
from qmrinspect.monitor.addresses import monitor_addresses, parse_address
from qmrinspect.monitor.base import CommandError, MonitorBusy, MonitorLost, MonitorTimeout
from qmrinspect.monitor.plain import PlainMonitor
from qmrinspect.monitor.qmp import QmpMonitor

Kind = type[Union[PlainMonitor, QmpMonitor]]
Script = Callable[[socket.socket], None]

ROOT = Path(__file__).resolve().parent.parent

GREETING = {
    "QMP": {
        "version": {"qemu": {"major": 9, "minor": 8, "micro": 7}, "package": ""},
        "capabilities": [],
    }
}


@pytest.fixture(params=[PlainMonitor, QmpMonitor], ids=["plain", "qemu.qmp"])
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    with Vm() as machine:
        yield machine


def stop(vm: Vm) -> None:
    # kill() returns before the threads have stopped; waitpid() after.
    os.kill(vm.pid, signal.SIGSTOP)
    os.waitpid(vm.pid, os.WUNTRACED)


# A real QEMU -----------------------------------------------------------------------


def test_commands_are_answered(vm: Vm, kind: Kind) -> None:
    with kind(vm.qmp) as monitor:
        status = monitor.execute("query-status")
        version = monitor.execute("query-version")
        assert isinstance(status, dict)
        assert isinstance(version, dict)
        assert status["running"] is False
        qemu = version["qemu"]
        assert monitor.version == f"{qemu['major']}.{qemu['minor']}.{qemu['micro']}"
        assert monitor.hmp("info version").startswith(monitor.version)


def test_a_refusal_carries_the_reason_of_qemu(vm: Vm, kind: Kind) -> None:
    with kind(vm.qmp) as monitor:
        with pytest.raises(CommandError) as refused:
            monitor.execute("device_add", {"driver": "no-such-device"})
        assert refused.value.desc == "'no-such-device' is not a valid device model name"
        assert refused.value.error_class == "GenericError"
        with pytest.raises(CommandError) as unknown:
            monitor.execute("no-such-command")
        assert unknown.value.error_class == "CommandNotFound"
        assert monitor.execute("query-status")


def test_events_arrive_and_waiting_leaves_the_others(vm: Vm, kind: Kind) -> None:
    with kind(vm.qmp) as monitor:
        monitor.execute("cont")
        monitor.execute("stop")
        stopped = monitor.wait_event("STOP", 5)
        assert stopped is not None
        assert stopped.timestamp_us > 1_500_000_000_000_000
        assert [event.name for event in monitor.events()] == ["RESUME"]
        assert monitor.wait_event(lambda event: event.name == "RESUME", 0.01) is None


def test_a_second_client_is_told_that_the_monitor_is_held(vm: Vm, kind: Kind) -> None:
    with kind(vm.qmp) as holder:
        for second in (PlainMonitor, QmpMonitor):
            with pytest.raises(MonitorBusy, match="held by another client") as busy:
                second(vm.qmp, 0.2)
            assert "one client at a time" in busy.value.hint
        assert holder.execute("query-status")
    with kind(vm.qmp) as heir:
        assert heir.execute("query-status")


def test_many_clients_that_give_up_do_not_block_the_next(vm: Vm, kind: Kind) -> None:
    with kind(vm.qmp):
        for _ in range(4):
            with pytest.raises(MonitorBusy):
                PlainMonitor(vm.qmp, 0.05)
    with kind(vm.qmp) as monitor:
        assert monitor.execute("query-status")


def test_a_stopped_qemu_is_named(kind: Kind) -> None:
    with Vm() as stopped:
        stop(stopped)
        with pytest.raises(MonitorBusy, match=f"process {stopped.pid} is stopped"):
            kind(stopped.qmp, 0.2)


def test_a_late_answer_is_not_taken_for_the_next_one(kind: Kind) -> None:
    with Vm() as slow, kind(slow.qmp) as monitor:
        stop(slow)
        with pytest.raises(MonitorTimeout, match="query-version"):
            monitor.execute("query-version", timeout=0.1)
        os.kill(slow.pid, signal.SIGCONT)
        status = monitor.execute("query-status")
        assert isinstance(status, dict)
        assert "running" in status


def test_a_qemu_that_dies_during_a_command(kind: Kind) -> None:
    with Vm() as doomed, kind(doomed.qmp) as monitor, ThreadPoolExecutor(1) as pool:
        stop(doomed)
        answer = pool.submit(monitor.execute, "query-version")
        os.kill(doomed.pid, signal.SIGKILL)
        with pytest.raises(MonitorLost, match="closed by the other side"):
            answer.result(10)
        with pytest.raises(MonitorLost):
            monitor.execute("query-status")
        assert doomed.wait(5)
        assert doomed.exit_text() == "killed by SIGKILL"
        with pytest.raises(MonitorError, match="QEMU has ended"):
            doomed.monitor(kind)


def test_a_qemu_that_quits_ends_the_wait_for_events(kind: Kind) -> None:
    with Vm() as leaving, kind(leaving.qmp) as monitor:
        monitor.execute("quit")
        with pytest.raises(MonitorLost):
            monitor.wait_event("NEVER", 10)


def test_a_closed_monitor_says_so(vm: Vm, kind: Kind) -> None:
    monitor = kind(vm.qmp)
    monitor.close()
    monitor.close()
    with pytest.raises(MonitorLost, match="is closed"):
        monitor.execute("query-status")


def test_no_thread_outlives_its_monitor(vm: Vm) -> None:
    before = threading.active_count()
    QmpMonitor(vm.qmp).close()
    with pytest.raises(MonitorError):
        QmpMonitor("/nonexistent/monitor")
    with PlainMonitor(vm.qmp), pytest.raises(MonitorBusy):
        QmpMonitor(vm.qmp, 0.05)
    assert threading.active_count() == before


# Servers that misbehave ------------------------------------------------------------


class Server:
    """Serves one client by a script, on a real unix socket."""

    def __init__(self, directory: Path, script: Script) -> None:
        self.address = str(directory / "server")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(1)
        self._script = script
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client:
            self._script(client)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive()


def until_closed(client: socket.socket) -> None:
    try:
        while client.recv(4096):
            pass
    except OSError:
        pass


def line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\r\n"


def greet(client: socket.socket) -> Iterator[dict[str, object]]:
    # Greets, answers qmp_capabilities, and yields each later command.
    # QEMU reads JSON as it comes: a client need not send line ends, and qemu.qmp does not.
    client.sendall(line(GREETING))
    text = ""
    while True:
        try:
            text += client.recv(4096).decode() or "\0"
            command, end = json.JSONDecoder().raw_decode(text)
        except OSError:
            return
        except ValueError:
            if text.endswith("\0"):
                return
            continue
        text = text[end:].lstrip()
        if command["execute"] == "qmp_capabilities":
            client.sendall(line({"return": {}, "id": command.get("id")}))
        else:
            yield command


@pytest.mark.parametrize(
    "said",
    [
        b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ",
        b"\x00\xff\xfe garbage\n",
        b"[1, 2, 3]\n",
        b'{"hello": "world"}\n',
        b'{"QMP": 7}\n',
    ],
    ids=["hmp", "bytes", "list", "object", "half"],
)
def test_a_server_that_is_no_qmp(tmp_path: Path, kind: Kind, said: bytes) -> None:
    def script(client: socket.socket) -> None:
        client.sendall(said)
        until_closed(client)

    with Server(tmp_path, script) as server:
        with pytest.raises(MonitorLost, match="does not speak QMP") as garbled:
            kind(server.address)
        assert "-qmp" in garbled.value.hint


def test_a_server_that_turns_to_garbage(tmp_path: Path, kind: Kind) -> None:
    def script(client: socket.socket) -> None:
        for _ in greet(client):
            client.sendall(b'{"return": \x00\x01\n')

    with Server(tmp_path, script) as server, kind(server.address) as monitor:
        assert monitor.version == "9.8.7"
        for _ in range(2):
            with pytest.raises(MonitorLost, match="does not speak QMP"):
                monitor.execute("query-status")


def test_a_silent_server(tmp_path: Path, kind: Kind) -> None:
    with Server(tmp_path, until_closed) as server, pytest.raises(MonitorBusy, match="no greeting"):
        kind(server.address, 0.1)


def test_a_server_that_hangs_up(tmp_path: Path, kind: Kind) -> None:
    with (
        Server(tmp_path, lambda client: None) as server,
        pytest.raises(MonitorLost, match="closed by the other side"),
    ):
        kind(server.address)


def test_a_monitor_that_is_closed_while_it_is_lost_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio prints what nobody waits for any more."""
    begun = threading.Event()
    end = QMPClient._bh_disconnect
    told: list[object] = []

    async def slowly(client: QMPClient) -> None:
        begun.set()
        await asyncio.sleep(0.1)
        await end(client)

    def lose(address: str) -> None:
        monitor = QmpMonitor(address)
        monitor._loop.set_exception_handler(lambda loop, context: told.append(context["message"]))
        with pytest.raises(MonitorError):
            monitor.execute("query-status", timeout=0.01)
        assert begun.wait(10)
        monitor.close()

    monkeypatch.setattr(QMPClient, "_bh_disconnect", slowly)
    with Server(tmp_path, lambda client: next(greet(client)) and None) as server:
        lose(server.address)
    gc.collect()
    assert not told


def test_a_flood_of_events_is_bounded_and_counted(tmp_path: Path, kind: Kind) -> None:
    stamp = {"seconds": 1, "microseconds": 2}

    def script(client: socket.socket) -> None:
        for command in greet(client):
            for number in range(20_000):
                event = {"event": "FLOOD", "data": {"n": number}, "timestamp": stamp}
                client.sendall(line(event))
            client.sendall(line({"return": "after", "id": command["id"]}))

    with Server(tmp_path, script) as server, kind(server.address, backlog=100) as monitor:
        assert monitor.execute("query-status") == "after"
        events = monitor.events()
        assert [event.data["n"] for event in events] == list(range(19_900, 20_000))
        assert events[0].timestamp_us == 1_000_002
        assert monitor.dropped == 19_900


def test_nobody_there(tmp_path: Path, kind: Kind) -> None:
    with pytest.raises(MonitorError, match="there is no monitor socket"):
        kind(str(tmp_path / "nothing"))
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead"))
    dead.close()
    with pytest.raises(MonitorError, match="nobody listens"):
        kind(str(tmp_path / "dead"))
    with pytest.raises(MonitorError, match="too long"):
        kind("/" + "x" * 200)


def test_tcp(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as chooser:
        port = chooser.getsockname()[1]
    with Vm(extra=["-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off"]) as machine:
        addresses = monitor_addresses(machine.argv)
        assert addresses == [machine.qmp, f"127.0.0.1:{port}"]
        with kind(addresses[0]) as first, kind(addresses[1]) as second:
            assert first.execute("query-name") == second.execute("query-name")


# Inside GDB ------------------------------------------------------------------------


def test_the_plain_monitor_needs_the_standard_library_only(vm: Vm) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from qmrinspect.hotplug import recipes, unplug, vm\n"
        "from qmrinspect.monitor.plain import PlainMonitor\n"
        "monitor = PlainMonitor(sys.argv[2])\n"
        "print(type(monitor).__name__, monitor.execute('query-status')['running'])\n"
    )
    # -I and -S: neither the venv's packages nor the environment are seen.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(ROOT), vm.qmp],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.split() == ["PlainMonitor", "False"], done.stderr


def test_a_monitor_in_another_network_is_reached(qmr: Qmr, stock_vm: Vm) -> None:
    script = (
        "ip link set lo up && exec qemu-system-x86_64 -name apart -display none -S -nodefaults "
        "-qmp tcp:127.0.0.1:4444,server=on,wait=off"
    )
    with subprocess.Popen(["unshare", "--net", "sh", "-c", script]) as process:
        try:
            address = f"netns:/proc/{process.pid}/ns/net:127.0.0.1:4444"
            assert parse_address(address) == (f"/proc/{process.pid}/ns/net", "127.0.0.1", 4444)
            deadline = time.monotonic() + 20
            rows: list[dict[str, object]] = []
            while not (rows and rows[0]["readable"]):
                assert process.poll() is None and time.monotonic() < deadline
                rows = [r for r in qmr("ps", "--json").json["processes"] if r["name"] == "apart"]
            assert rows[0]["qmp"] == [address]
            assert "plugged" in qmr("apart", "plug", "virtio-rng-pci").out
            # Who is at its other end is seen there, too.
            wrong = qmr(str(stock_vm.pid), "--qmp", address, "qmp", "query-name")
            assert wrong.code == 2 and str(process.pid) in wrong.err
        finally:
            process.kill()
