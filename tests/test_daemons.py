"""What programs, files and keys of the host stand behind: verdicts, and nothing left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qmrinspect.errors import PeerMissing
from qmrinspect.hotplug.vm import Vm
from qmrinspect.hunt.pool import VmPool
from qmrinspect.hunt.settings import Job, Settings
from qmrinspect.monitor.base import CommandError, Monitor
from qmrinspect.monitor.plain import PlainMonitor
from qmrinspect.monitor.qmp import QmpMonitor
from qmrinspect.monitor.recording import RecordingMonitor
from qmrinspect.peers import Peer, braille, daemons, open_peer, peer
from qmrinspect.peers.peer import ProgramPeer
from qmrinspect.target.proc import dead


@pytest.fixture(scope="module")
def pool() -> Iterator[VmPool]:
    with VmPool(Settings(start_options=("ccid-bus", "can"))) as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail when a peer leaves a file."""
    monkeypatch.setattr(peer.tempfile, "tempdir", str(tmp_path))
    yield
    assert not list(tmp_path.glob(f"{peer.DIRECTORY_PREFIX}*"))


def do(pool: VmPool, driver: str) -> dict[str, Any]:
    (row,) = pool.do(Job(driver))
    return row


# Verdicts --------------------------------------------------------------------------

CLEAN = [
    "object:dbus-vmstate",
    "object:input-barrier",
    "object:secret_keyring",
    "object:sev-guest",
    "object:tls-creds-x509",
    "chardev:dbus",
    "chardev:pipe",
    "chardev:spicevmc",
    "netdev:bridge",
    "netdev:l2tpv3",
    "netdev:tap",
    "netdev:vde",
    "ccid-card-emulated",
    # Each in a VM of its own kind.
    "chardev:spiceport",
]


@pytest.mark.parametrize("driver", CLEAN)
def test_it_is_plugged_and_clean(pool: VmPool, driver: str) -> None:
    row = do(pool, driver)
    assert (row["outcome"], row["text"]) == (
        "clean",
        f"{driver} was finalized with all that came with it",
    )
    assert row["kept"] == []


#: What was freed and is still called, and by what.
STALE = {
    # vhost_user_backend_finalize() (backends/vhost-user.c) never calls vhost_dev_cleanup(),
    # which alone unregisters the listener that lies in the backend (hw/virtio/vhost.c).
    "vhost-user-input-pci": (
        "memory-listener",
        "leads to vhost-user-backend <",
        "when the memory topology changes",
    ),
    # char_braille_finalize() (chardev/baum.c) never takes back the handler that
    # baum_chr_open() sets.  Last: it may hit who comes next.
    "chardev:braille": (
        "fd-handler",
        "would call chardev-baum.so+",
        "with /chardevs/dut1 <",
        "when the descriptor is ready",
    ),
}


@pytest.mark.parametrize("driver", STALE)
def test_what_is_freed_and_still_called_is_stale(pool: VmPool, driver: str) -> None:
    row = do(pool, driver)
    kind, *words = STALE[driver]
    assert (row["outcome"], row["cause"]) == ("stale", kind)
    assert row["objects_left"] == []
    (stale,) = row["stale"]
    assert stale["kind"] == kind
    assert stale["freed"]
    assert stale["text"] == row["text"]
    assert all(word in row["text"] for word in words)
    assert row["kept"] == []


def test_the_proxy_of_a_remote_device_leaves_its_channel(pool: VmPool) -> None:
    # pci_proxy_dev_exit() closes the channel and keeps its reference (hw/remote/proxy.c).
    row = do(pool, "x-pci-proxy-dev")
    assert row["outcome"] == "partial-leak"
    assert [left["type"] for left in row["objects_left"]] == ["qio-channel-socket"]
    assert row["kept"] == []


def test_a_remote_object_that_is_plugged_kills_qemu(pool: VmPool) -> None:
    # It looks for its device before it was told which (remote_object_init()).
    row = do(pool, "object:x-remote-object")
    assert row["outcome"] == "crash"
    assert "SIGSEGV" in row["text"]
    assert row["machine"].startswith("x-remote")


OUTSIDE = {
    "chardev:parallel": "needs a parallel port of the host (QEMU says: ",
    "object:can-host-socketcan": "needs a CAN interface of the host (QEMU says: ",
    "object:input-linux": "needs an input device of the host (QEMU says: ",
    "scsi-block": "needs a SCSI disk of the host (QEMU says: ",
}


@pytest.mark.parametrize("driver", OUTSIDE)
def test_qemu_confirms_what_lies_outside(driver: str) -> None:
    with VmPool(Settings(start_options=("can", "SCSI"))) as pool:
        row = do(pool, driver)
    assert row["outcome"] == "refused"
    assert row["text"].startswith(OUTSIDE[driver])
    assert "missing" not in row["text"]
    assert "not set" not in row["text"]


# Descriptors -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PlainMonitor, QmpMonitor, RecordingMonitor])
def test_a_descriptor_is_passed(kind: Callable[[str], Monitor]) -> None:
    reader, writer = os.pipe()
    with Vm() as vm, vm.monitor(kind) as monitor:
        monitor.execute("getfd", {"fdname": "passed"}, descriptor=writer)
        os.close(writer)
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)  # QEMU has the only other end
        monitor.execute("closefd", {"fdname": "passed"})
        assert os.read(reader, 1) == b""
        with pytest.raises(CommandError, match="not found"):
            monitor.execute("closefd", {"fdname": "passed"})
        if isinstance(monitor, RecordingMonitor):
            request = {"execute": "getfd", "arguments": {"fdname": "passed"}}
            assert request in monitor.transcript
    os.close(reader)


@pytest.mark.parametrize("kind", [PlainMonitor, QmpMonitor])
def test_a_monitor_over_the_network_passes_none(kind: Callable[[str], Monitor]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    extra = ["-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off"]
    with Vm(extra=extra), kind(f"127.0.0.1:{port}") as monitor:
        with pytest.raises(CommandError, match="passes no file descriptors"):
            monitor.execute("getfd", {"fdname": "passed"}, descriptor=0)
        monitor.execute("query-status")


# Programs --------------------------------------------------------------------------


def serving(directory: Path) -> bool:
    return (directory / "ready").exists()


def shell(script: str) -> Callable[[Path], list[str]]:
    return lambda directory: ["sh", "-c", f"cd {directory}; {script}"]


def test_a_program_ends_with_its_peer() -> None:
    peer = ProgramPeer(shell("echo $$ > pid; touch ready; exec sleep 60"), serving)
    pid = int((peer.directory / "pid").read_text())
    os.kill(pid, 0)
    peer.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_program_that_is_not_there_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer.shutil, "which", lambda *names, **options: None)
    with pytest.raises(PeerMissing) as missing:
        open_peer("vde-switch")
    assert missing.value.text == (
        "needs the program vde_switch (Debian: apt-get install vde-switch)"
    )


@pytest.mark.parametrize(
    "script, text",
    [
        ("echo one >&2; echo two >&2; exit 1", "needs the program sh to run (two)"),
        ("exec sleep 60", "needs the program sh to run (it does not)"),
    ],
)
def test_a_program_that_does_not_come_up_is_quoted(script: str, text: str) -> None:
    with pytest.raises(PeerMissing) as missing:
        ProgramPeer(shell(script), serving, timeout=0.3)
    assert missing.value.text == text


def test_a_program_that_fails_without_a_word_has_failed(tmp_path: Path) -> None:
    daemons.run(["sh", "-c", "echo done"], tmp_path)
    for script, text in (("exit 3", "exit status 3"), ("echo why >&2; exit 3", "why")):
        with pytest.raises(PeerMissing) as missing:
            daemons.run(["sh", "-c", script], tmp_path)
        assert missing.value.text == f"needs the program sh to work ({text})"


def test_no_program_outlives_a_kill(tmp_path: Path) -> None:
    script = "from qmrinspect.peers import open_peer\n"
    script += "peer = open_peer('d-bus')\n"
    script += "print(peer._process.pid, flush=True)\n"
    script += "input()\n"
    (tmp_path / "killed").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path / "killed")},
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    # Where nobody waits for it, in a container without an init, it stays a zombie.
    while not dead(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Keys, and the one socket that all share --------------------------------------------


def test_a_key_goes_with_its_place() -> None:
    peer = open_peer("secret-key")
    number = f"{int(peer.path):08x}"
    assert number in Path("/proc/keys").read_text()
    peer.close()
    deadline = time.monotonic() + 5
    while number in Path("/proc/keys").read_text():  # the kernel collects it a little later
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_braille_server_that_runs_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(braille, "_SOCKETS", tmp_path)
    monkeypatch.setattr(braille, "_SOCKET", tmp_path / "0")
    monkeypatch.setattr(braille, "_PATIENCE_S", 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(tmp_path / "0"))
        server.listen()
        used = braille.braille()
        assert type(used) is Peer
        used.close()
        assert (tmp_path / "0").exists()
    # Now nobody listens there.
    played = braille.braille()
    with pytest.raises(PeerMissing, match="in use"):
        braille.braille()
    played.close()
    assert not (tmp_path / "0").exists()
    braille.braille().close()
