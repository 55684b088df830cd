"""What stands behind block nodes: servers and images that QEMU opens."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qmrinspect import peers
from qmrinspect.errors import PeerMissing
from qmrinspect.hotplug.plugging import plug, release
from qmrinspect.hotplug.recipes import recipe_for
from qmrinspect.hotplug.vm import Vm
from qmrinspect.hunt.pool import VmPool
from qmrinspect.hunt.settings import Job, Settings
from qmrinspect.monitor.plain import PlainMonitor
from qmrinspect.peers import Peer, disks, nfs, open_peer
from qmrinspect.peers.images import SIZE


@pytest.fixture(scope="module")
def pool() -> Iterator[VmPool]:
    with VmPool(Settings(start_options=())) as opened:
        yield opened


def do(pool: VmPool, driver: str) -> dict[str, Any]:
    (row,) = pool.do(Job(driver))
    return row


# Verdicts --------------------------------------------------------------------------

BLOCKS = (
    "bochs cloop compress dmg ftp ftps gluster host_cdrom host_device http https iscsi luks nbd "
    "rbd replication snapshot-access ssh"
).split()


def may_serve_nfs() -> bool:
    with contextlib.suppress(PeerMissing):
        open_peer("nfs").close()
        return True
    return False


@pytest.mark.parametrize("name", [*BLOCKS, "nfs"])
def test_a_block_node_comes_and_goes(pool: VmPool, name: str) -> None:
    row = do(pool, f"block:{name}")
    if name == "nfs" and not may_serve_nfs():
        assert (row["outcome"], row["step"]) == ("refused", "prepare")
        assert row["text"].startswith("needs port 111 for an NFS server ")
        return
    assert row["text"] == f"block:{name} was finalized with all that came with it"
    assert (row["outcome"], row["kept"]) == ("clean", [])


def test_qemu_sees_the_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Servers on this machine are no matter for a proxy.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with Vm() as vm, vm.monitor(PlainMonitor) as monitor:
        for name in "bochs cloop dmg ftps http iscsi luks nbd rbd ssh".split():
            plugged = plug(monitor, recipe_for(f"block:{name}"), name)
            nodes: Any = monitor.execute("query-named-block-nodes")
            (node,) = (node for node in nodes if node["node-name"] == name)
            assert (node["drv"], node["image"]["virtual-size"]) == (name, SIZE)
            monitor.execute("blockdev-del", {"node-name": name})
            assert release(monitor, plugged) == ()


# Servers ---------------------------------------------------------------------------

SERVERS = "ftp ftps gluster http https iscsi nbd ssh".split()


def connect(peer: Peer) -> socket.socket:
    unix = os.path.exists(peer.path)
    client = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    client.settimeout(10)
    client.connect(peer.path if unix else ("127.0.0.1", int(peer.path)))
    return client


def running() -> set[threading.Thread]:
    # What is about to start is listed as well.
    return {thread for thread in threading.enumerate() if thread.is_alive()}


def read_all(client: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while piece := client.recv(4096):
            data += piece
    return data


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_closes_on_nonsense(kind: str) -> None:
    peer = open_peer(kind)
    with connect(peer) as client:
        client.sendall(b"\xff" * 256 + b"\r\n\r\n")
        read_all(client)
    peer.close()


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_lets_go_of_a_silent_client(kind: str) -> None:
    before = running()
    peer = open_peer(kind)
    with connect(peer) as client:
        # One that accepts, and one that talks.
        while len(new := running() - before) < 2:
            time.sleep(0.01)
        peer.close()
        read_all(client)
    for thread in new:
        thread.join(10)
    assert not any(thread.is_alive() for thread in new)


def test_an_nfs_server_refuses_what_it_does_not_know() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        serving = threading.Thread(target=talk, args=(theirs,))
        serving.start()
        # WRITE of NFS 3, without who calls.
        call = struct.pack(">10I", 7, 0, 2, 100003, 3, 7, 0, 0, 0, 0)
        ours.sendall(struct.pack(">I", 1 << 31 | len(call)) + call)
        assert ours.recv(28, socket.MSG_WAITALL)[4:] == struct.pack(">6I", 7, 1, 0, 0, 0, 3)
        ours.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert read_all(ours) == b""
        serving.join(10)
    assert not serving.is_alive()


def talk(client: socket.socket) -> None:
    with contextlib.suppress(OSError, EOFError), client:
        nfs.nfs(client)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    monkeypatch.delitem(sys.modules, "qmrinspect.peers.ssh", raising=False)
    monkeypatch.delattr(peers, "ssh", raising=False)
    monkeypatch.setattr(shutil, "which", lambda *names, **options: None)
    with pytest.raises(PeerMissing, match=r"needs the Python package asyncssh \(pip "):
        open_peer("ssh")
    with pytest.raises(PeerMissing, match=r"needs the program openssl \(Debian: "):
        open_peer("https")
    with pytest.raises(PeerMissing, match=r"needs the program monmaptool \(Debian: .* ceph-osd"):
        open_peer("ceph")
    monkeypatch.setattr(disks.Path, "glob", lambda *_: ())
    with pytest.raises(PeerMissing, match=r"needs the translators of GlusterFS \(Debian: "):
        open_peer("gluster")


def test_a_port_that_is_taken_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(nfs, "PORT", taken.getsockname()[1])
        monkeypatch.setattr("random.randint", lambda low, high: low)
        with socket.create_server(("127.1.0.1", nfs.PORT)), pytest.raises(PeerMissing) as failed:
            open_peer("nfs")
    assert failed.value.text.startswith(f"needs port {nfs.PORT} for an NFS server ")
