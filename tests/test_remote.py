"""A QEMU behind a gdbserver."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Qmr

from qmrinspect.hotplug.vm import Vm
from qmrinspect.target.remote import _decoded


@pytest.fixture
def gdbserver(fresh_vm: Vm) -> Iterator[tuple[Vm, str]]:
    """Return a VM and the address of the gdbserver that has attached to it."""
    server = subprocess.Popen(
        ["gdbserver", "--once", "--attach", "127.0.0.1:0", str(fresh_vm.pid)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    port = next(m.group(1) for m in (re.search(r"on port (\d+)", s) for s in server.stderr) if m)
    try:
        yield fresh_vm, f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


def test_a_gdbserver_shows_the_same_and_lets_the_vm_run(
    qmr: Qmr, gdbserver: tuple[Vm, str]
) -> None:
    vm, address = gdbserver
    far = qmr("--remote", address, "tree", "--json")
    assert far.code == 0, far.err
    # gdbserver detaches first, and then ends.
    deadline = time.monotonic() + 5
    while not re.search(r"^TracerPid:\s+0$", Path(f"/proc/{vm.pid}/status").read_text(), re.M):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    near = qmr(vm.pid, "tree", "--json").json
    places = [
        [(obj["address"], obj["type"], obj["path"]) for obj in reading["objects"]]
        for reading in (far.json, near)
    ]
    assert places[0] == places[1]
    # Counts differ between two instants; at each of them they balance.
    assert all(obj["observed"] == obj["expected"] for obj in far.json["objects"])
    assert far.json["target"]["kind"] == "remote"
    assert far.json["target"]["build_id"] == near["target"]["build_id"]
    assert qmr(vm.pid, "hmp", "info status").out.startswith("VM status")


def test_a_gdbserver_has_no_monitor(qmr: Qmr, gdbserver: tuple[Vm, str]) -> None:
    vm, address = gdbserver
    ran = qmr("--remote", address, "--qmp", vm.qmp, "hmp", "info status")
    assert ran.code == 2 and "stands still behind a gdbserver" in ran.err


def test_what_is_no_gdbserver_is_said() -> None:
    from qmrinspect.errors import TargetError
    from qmrinspect.target.remote import Remote

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def greet() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(TargetError, match="closed the connection"):
            Remote(address)
        thread.join()
    with pytest.raises(TargetError, match="no gdbserver answers"):
        Remote(address)
    with pytest.raises(TargetError, match="is no address"):
        Remote("nowhere")


def test_escapes_and_repetitions_are_undone() -> None:
    assert _decoded(b"0* ") == b"0000"
    assert _decoded(b"a}\x03b}\x04") == b"a#b$"
    assert _decoded(b"plain") == b"plain"
