"""The catalogue of block nodes
----------------------------

How each is made and what stands behind it, by ``block:TYPE``; as in
:mod:`qmrinspect.hotplug.nondevices`.
"""

from __future__ import annotations

from .backends import HOST_DEVICE, object_backend, only
from .kinds import Backend, NonDevice

__all__ = ["BLOCKS", "MAY_MISS"]


def _block(**arguments: object) -> Backend:
    data = {name.replace("_", "-"): value for name, value in arguments.items()}
    return Backend(None, "{id}", "blockdev-add", data, "blockdev-del", "node-name")


_DIRECTORY = only("directory")
_IMAGE = only("image")
_NULL: dict[str, object] = {"driver": "null-co", "size": 1 << 20, "read-zeroes": True}

_SECRET = object_backend("{id}-secret", qom_type="secret", data="{peer.secret}")
_FILE_NODE = Backend(
    None,
    "{id}-file",
    "blockdev-add",
    {"driver": "file", "filename": "{peer}"},
    "blockdev-del",
    "node-name",
    "image",
)


def _formatted(name: str) -> tuple[Backend, tuple[Backend, ...]]:
    # An image of a format, which QEMU itself makes.
    options: dict[str, object] = {"driver": name, "file": "{id}-file", "size": 1 << 20}
    if name == "vpc":
        options["force-size"] = True  # 1 MiB is no number of cylinders
    made = Backend(None, "{id}-job", "blockdev-create", {"options": options}, None, "job-id")
    return _block(driver=name, file="{id}-file"), (_FILE_NODE, made)


def _stored(name: str, *behind: Backend, **arguments: object) -> NonDevice:
    # An image of a format that QEMU need not make.
    node = {"driver": "file", "filename": "{peer}"}
    peer = only(name)
    make = _block(driver=name, file=node, read_only=True, **arguments)
    return NonDevice(make, (peer, *behind))


def _served(name: str, **arguments: object) -> NonDevice:
    # A disk at a server.
    peer = only(name)
    return NonDevice(_block(driver=name, read_only=True, **arguments), (peer,))


def _above_qcow2() -> tuple[Backend, ...]:
    make, backends = _formatted("qcow2")
    return *backends, make._replace(name="{id}-format")


#: How each block node is made, and what stands behind it.
BLOCKS: dict[str, NonDevice] = {
    "block:blkdebug": NonDevice(_block(driver="blkdebug", image=_NULL)),
    "block:blkverify": NonDevice(_block(driver="blkverify", test=_NULL, raw=_NULL)),
    "block:blklogwrites": NonDevice(_block(driver="blklogwrites", file=_NULL, log=_NULL)),
    "block:blkreplay": NonDevice(_block(driver="blkreplay", image=_NULL)),
    "block:bochs": _stored("bochs"),
    "block:cloop": _stored("cloop"),
    "block:compress": NonDevice(_block(driver="compress", file="{id}-format"), _above_qcow2()),
    "block:copy-before-write": NonDevice(
        _block(driver="copy-before-write", file=_NULL, target=_NULL)
    ),
    "block:copy-on-read": NonDevice(_block(driver="copy-on-read", file=_NULL)),
    "block:dmg": _stored("dmg"),
    "block:file": NonDevice(_block(driver="file", filename="{peer}"), (_IMAGE,)),
    "block:ftp": _served("ftp", url="ftp://127.0.0.1:{peer}/image"),
    "block:ftps": _served("ftps", url="ftps://127.0.0.1:{peer}/image", sslverify=False),
    "block:gluster": _served(
        "gluster",
        volume="{peer.volume}",
        path="{peer.path}",
        server=[{"type": "inet", "host": "127.0.0.1", "port": "{peer}"}],
    ),
    # Any character device opens (hdev_open() and cdrom_open(), block/file-posix.c).
    "block:host_cdrom": NonDevice(
        _block(driver="host_cdrom", filename="/dev/null", read_only=True)
    ),
    "block:host_device": NonDevice(_block(driver="host_device", filename="/dev/null")),
    "block:http": _served("http", url="http://127.0.0.1:{peer}/image"),
    "block:https": _served("https", url="https://127.0.0.1:{peer}/image", sslverify=False),
    "block:iscsi": _served(
        "iscsi", transport="tcp", portal="127.0.0.1:{peer}", target="{peer.target}"
    ),
    "block:luks": _stored("luks", _SECRET, key_secret="{id}-secret"),
    "block:nbd": _served("nbd", server={"type": "unix", "path": "{peer}"}),
    "block:nfs": _served("nfs", server={"type": "inet", "host": "{peer}"}, path="/dir/file"),
    "block:null-aio": NonDevice(_block(driver="null-aio")),
    "block:null-co": NonDevice(_block(driver="null-co")),
    "block:preallocate": NonDevice(_block(driver="preallocate", file=_NULL)),
    "block:quorum": NonDevice(_block(driver="quorum", vote_threshold=1, children=[_NULL, _NULL])),
    "block:raw": NonDevice(_block(driver="raw", file=_NULL)),
    "block:rbd": NonDevice(
        _block(
            driver="rbd", pool="{peer.pool}", image="{peer.image}", conf="{peer}", read_only=True
        ),
        (only("ceph"),),
    ),
    "block:replication": NonDevice(_block(driver="replication", mode="primary", file=_NULL)),
    "block:snapshot-access": NonDevice(
        _block(
            driver="snapshot-access",
            file={"driver": "copy-before-write", "file": _NULL, "target": _NULL},
        )
    ),
    "block:ssh": _served(
        "ssh",
        server={"host": "127.0.0.1", "port": "{peer}"},
        path="/file",
        user="qmr",
        host_key_check={"mode": "none"},
    ),
    "block:throttle": NonDevice(
        _block(driver="throttle", throttle_group="{id}-group", file=_NULL),
        (object_backend("{id}-group", qom_type="throttle-group"),),
    ),
    **{
        f"block:{name}": NonDevice(*_formatted(name))
        for name in "parallels qcow qcow2 qed vdi vhdx vmdk vpc".split()
    },
    "block:vvfat": NonDevice(_block(driver="vvfat", dir="{peer}", read_only=True), (_DIRECTORY,)),
}

#: Reasons why QEMU may refuse a block node.
MAY_MISS: dict[str, str] = {
    "block:luks": "needs a QEMU that was built with a library for cryptography",
    **{
        f"block:{name}": HOST_DEVICE.format("a disk")
        for name in "io_uring nvme nvme-io_uring virtio-blk-vfio-pci virtio-blk-vhost-vdpa".split()
    },
    "block:virtio-blk-vhost-user": "needs a server of disks by vhost-user",
}
