"""A Ceph cluster
--------------

The smallest there is, with one image in it: a monitor and an object store that keeps
all in its memory, on the loopback interface and for as long as the peer is there.
"""

from __future__ import annotations

import socket
import uuid
from pathlib import Path

from .daemons import answers, run
from .images import SIZE
from .peer import LOOPBACK, Peer, ProgramPeer

__all__ = ["IMAGE", "POOL", "Cluster"]

#: The image, and its pool.
POOL, IMAGE = "qmr", "image"

# Seconds that the cluster has to answer.
_ANSWER_S = 10

_CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{port}
auth cluster required = none
auth service required = none
auth client required = none
ms bind msgr1 = false
public addr = 127.0.0.1
crash dir = {directory}
log to file = false
# A change of the cluster's maps takes a second each otherwise.
paxos propose interval = 0.02
paxos min wait = 0.01
osd pool default size = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
[mon]
mon data = {directory}/mon
admin socket = {directory}/mon.asok
pid file =
[osd]
osd data = {directory}/osd
osd objectstore = memstore
memstore device bytes = 64M
admin socket = {directory}/osd.asok
pid file =
heartbeat file = {directory}/heartbeat
[client]
admin socket =
rbd validate pool = false
"""


class Cluster(Peer):
    """A cluster that takes some 1.5 s to make; ``path`` is its configuration.

    :raises PeerMissing: its programs are not installed, or do not work.
    """

    def __init__(self) -> None:
        super().__init__("ceph.conf")
        self.names = {"pool": POOL, "image": IMAGE}
        self._daemons: list[ProgramPeer] = []
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        fsid, store = str(uuid.uuid4()), str(uuid.uuid4())
        with socket.create_server(LOOPBACK) as free:
            port = free.getsockname()[1]
        for name in ("mon", "osd"):
            (self.directory / name).mkdir()
        Path(self.path).write_text(
            _CONFIGURATION.format(fsid=fsid, port=port, directory=self.directory)
        )
        peer = f"[v2:127.0.0.1:{port}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", peer, "map")
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", "map")
        self._daemon("mon", "a")
        self._ceph("osd", "new", store)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", store)
        self._daemon("osd", "0")
        self._ceph("osd", "pool", "create", POOL, "1", "1")
        self._run("rbd", "create", "--pool", POOL, "--size", f"{SIZE}B", IMAGE)

    def _run(self, *words: str) -> None:
        run([*words, "--conf", self.path], self.directory)

    def _ceph(self, *words: str) -> None:
        self._run("ceph", "--connect-timeout", str(_ANSWER_S), *words)

    def _daemon(self, kind: str, name: str) -> None:
        argv = [f"ceph-{kind}", "-i", name, "--foreground", "--conf", self.path]
        ready = self.directory / f"{kind}.asok"
        self._daemons.append(
            ProgramPeer(lambda _: argv, lambda _: answers(ready), timeout=_ANSWER_S)
        )

    def close(self) -> None:
        for daemon in self._daemons:
            daemon.close()
        super().close()
