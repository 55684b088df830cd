"""The catalogue of what is no device
----------------------------------

How each object, chardev, netdev and block node is made, what stands behind it, and why
QEMU may refuse it, by ``KIND:TYPE``.

In strings, ``{id}`` is the id of what is plugged and ``{place}`` the path of the
program or file that stands behind a backend.
"""

from __future__ import annotations

from . import iscsi
from .backends import HOST_DEVICE, VHOST_USER, chardev_backend, object_backend
from .kinds import Backend, Subject

__all__ = ["OUTSIDE", "SUBJECTS"]


def _subject(create: str, delete: str, key: str, **arguments: object) -> Backend:
    data = {name.replace("_", "-"): value for name, value in arguments.items()}
    return Backend("", "{id}", create, data, delete, key)


def _plain_object(**arguments: object) -> Backend:
    return _subject("object-add", "object-del", "id", **arguments)


def _character(kind: str, **data: object) -> Backend:
    backend = {"type": kind, "data": data}
    return _subject("chardev-add", "chardev-remove", "id", backend=backend)


def _net(**arguments: object) -> Backend:
    return _subject("netdev_add", "netdev_del", "id", **arguments)


def _block(**arguments: object) -> Backend:
    return _subject("blockdev-add", "blockdev-del", "node-name", **arguments)


_NETDEV = Backend("", "{id}-net", "netdev_add", {"type": "hubport", "hubid": 7}, "netdev_del", "id")
_FILTERED = (_NETDEV,)
_DIRECTORY = Backend("", "{place}", "", {}, "", "", "directory")
_IMAGE = Backend("", "{place}", "", {}, "", "", "image")
_KEYS = Backend("", "{place}", "", {}, "", "", "keys")
_HELPER = Backend("", "{place}", "", {}, "", "", "pr-helper")
_NULL: dict[str, object] = {"driver": "null-co", "size": 1 << 20, "read-zeroes": True}

_FILE_NODE = Backend(
    "",
    "{id}-file",
    "blockdev-add",
    {"driver": "file", "filename": "{place}"},
    "blockdev-del",
    "node-name",
    "image",
)


def _formatted(name: str, **more: object) -> tuple[Backend, tuple[Backend, ...]]:
    # An image of a format, which QEMU itself makes.
    options: dict[str, object] = {"driver": name, "file": "{id}-file", "size": 1 << 20, **more}
    if name == "vpc":
        options["force-size"] = True  # 1 MiB is no number of cylinders
    made = Backend("", "{id}-job", "blockdev-create", {"options": options}, "", "job-id")
    return _block(driver=name, file="{id}-file"), (_FILE_NODE, made)


def _luks() -> Subject:
    # As few rounds of the key derivation as there may be: they are timed otherwise.
    key = {"key-secret": "{id}-secret"}
    make, backends = _formatted("luks", **key, **{"iter-time": 10})
    secret = object_backend("{id}-secret", qom_type="secret", data="secret")
    return Subject(make._replace(arguments={**make.arguments, **key}), (secret, *backends))


def _stored(name: str) -> Subject:
    # An image of a format that QEMU only reads.
    node = {"driver": "file", "filename": "{place}"}
    place = Backend("", "{place}", "", {}, "", "", name)
    return Subject(_block(driver=name, file=node, read_only=True), (place,))


def _served(name: str, **arguments: object) -> Subject:
    # A disk at a server.
    place = Backend("", "{place}", "", {}, "", "", name)
    return Subject(_block(driver=name, read_only=True, **arguments), (place,))


def _above_qcow2() -> tuple[Backend, ...]:
    make, backends = _formatted("qcow2")
    return *backends, make._replace(name="{id}-format")


#: What is no device: by ``KIND:TYPE``, how it is made, and what stands behind it.
SUBJECTS: dict[str, Subject] = {
    "object:authz-list": Subject(_plain_object(policy="deny")),
    "object:authz-simple": Subject(_plain_object(identity="nobody")),
    "object:authz-listfile": Subject(_plain_object(filename="{place}/list"), (_DIRECTORY,)),
    "object:authz-pam": Subject(_plain_object(service="qmr")),
    "object:cryptodev-backend-builtin": Subject(_plain_object()),
    "object:cryptodev-vhost-user": Subject(
        _plain_object(chardev="{id}-chardev"),
        (VHOST_USER._replace(property=""),),
    ),
    "object:colo-compare": Subject(
        Backend(
            "",
            "{id}",
            "object-add",
            {
                "primary_in": "{id}-chardev",
                "secondary_in": "{id}-second",
                "outdev": "{id}-third",
                "iothread": "{id}-thread",
            },
            "object-del",
            "id",
        ),
        (
            chardev_backend({"type": "null", "data": {}}, ""),
            chardev_backend({"type": "null", "data": {}}, "", name="second"),
            chardev_backend({"type": "null", "data": {}}, "", name="third"),
            object_backend("{id}-thread", qom_type="iothread"),
        ),
    ),
    "object:filter-buffer": Subject(_plain_object(netdev="{id}-net", interval=1000), _FILTERED),
    "object:filter-dump": Subject(
        _plain_object(netdev="{id}-net", file="{place}/dump"),
        (_DIRECTORY, _NETDEV),
    ),
    "object:filter-mirror": Subject(
        _plain_object(netdev="{id}-net", outdev="{id}-chardev"),
        (_NETDEV, chardev_backend({"type": "null", "data": {}}, "")),
    ),
    "object:filter-redirector": Subject(
        _plain_object(netdev="{id}-net", outdev="{id}-chardev"),
        (_NETDEV, chardev_backend({"type": "null", "data": {}}, "")),
    ),
    "object:filter-replay": Subject(_plain_object(netdev="{id}-net"), _FILTERED),
    "object:filter-rewriter": Subject(_plain_object(netdev="{id}-net"), _FILTERED),
    "object:iothread": Subject(_plain_object()),
    "object:memory-backend-file": Subject(
        _plain_object(size=1 << 20, mem_path="{place}/memory"),
        (_DIRECTORY,),
    ),
    "object:memory-backend-memfd": Subject(_plain_object(size=1 << 20)),
    "object:memory-backend-ram": Subject(_plain_object(size=1 << 20)),
    "object:memory-backend-shm": Subject(_plain_object(size=1 << 20)),
    "object:pr-manager-helper": Subject(_plain_object(path="{place}"), (_HELPER,)),
    "object:qtest": Subject(
        _plain_object(chardev="{id}-chardev"),
        (chardev_backend({"type": "null", "data": {}}, ""),),
    ),
    "object:rng-builtin": Subject(_plain_object()),
    "object:rng-egd": Subject(
        _plain_object(chardev="{id}-chardev"),
        (chardev_backend({"type": "null", "data": {}}, ""),),
    ),
    "object:rng-random": Subject(_plain_object(filename="/dev/urandom")),
    "object:secret": Subject(_plain_object(data="secret")),
    "object:thread-context": Subject(_plain_object()),
    "object:throttle-group": Subject(_plain_object()),
    "object:tls-cipher-suites": Subject(_plain_object(priority="NORMAL")),
    "object:tls-creds-anon": Subject(_plain_object(endpoint="client")),
    "object:tls-creds-psk": Subject(_plain_object(endpoint="client", dir="{place}"), (_KEYS,)),
    "chardev:file": Subject(_character("file", out="{place}/out"), (_DIRECTORY,)),
    "chardev:memory": Subject(_character("memory", size=4096)),
    "chardev:mux": Subject(
        _character("mux", chardev="{id}-chardev"),
        (chardev_backend({"type": "null", "data": {}}, ""),),
    ),
    "chardev:null": Subject(_character("null")),
    "chardev:pty": Subject(_character("pty")),
    "chardev:qemu-vdagent": Subject(_character("qemu-vdagent")),
    "chardev:ringbuf": Subject(_character("ringbuf", size=4096)),
    "chardev:serial": Subject(_character("serial", device="/dev/ptmx")),
    "chardev:socket": Subject(
        _character("socket", addr={"type": "unix", "data": {"path": "{place}/socket"}}, wait=False),
        (_DIRECTORY,),
    ),
    "chardev:testdev": Subject(_character("testdev")),
    "chardev:udp": Subject(
        _character("udp", remote={"type": "inet", "data": {"host": "127.0.0.1", "port": "9"}})
    ),
    "chardev:wctablet": Subject(_character("wctablet")),
    "chardev:msmouse": Subject(_character("msmouse")),
    "netdev:dgram": Subject(
        _net(
            type="dgram",
            local={"type": "unix", "path": "{place}/one"},
            remote={"type": "unix", "path": "{place}/two"},
        ),
        (_DIRECTORY,),
    ),
    "netdev:hubport": Subject(_net(type="hubport", hubid=8)),
    "netdev:socket": Subject(_net(type="socket", listen="127.0.0.1:0")),
    "netdev:stream": Subject(
        _net(type="stream", server=True, addr={"type": "unix", "path": "{place}/stream"}),
        (_DIRECTORY,),
    ),
    "netdev:user": Subject(_net(type="user")),
    "netdev:vhost-user": Subject(
        _net(type="vhost-user", chardev="{id}-chardev"),
        (VHOST_USER._replace(property=""),),
    ),
    "block:blkdebug": Subject(_block(driver="blkdebug", image=_NULL)),
    "block:blkverify": Subject(_block(driver="blkverify", test=_NULL, raw=_NULL)),
    "block:blklogwrites": Subject(_block(driver="blklogwrites", file=_NULL, log=_NULL)),
    "block:blkreplay": Subject(_block(driver="blkreplay", image=_NULL)),
    "block:bochs": _stored("bochs"),
    "block:cloop": _stored("cloop"),
    "block:compress": Subject(_block(driver="compress", file="{id}-format"), _above_qcow2()),
    "block:copy-before-write": Subject(
        _block(driver="copy-before-write", file=_NULL, target=_NULL)
    ),
    "block:copy-on-read": Subject(_block(driver="copy-on-read", file=_NULL)),
    "block:dmg": _stored("dmg"),
    "block:file": Subject(_block(driver="file", filename="{place}"), (_IMAGE,)),
    "block:ftp": _served("ftp", url="ftp://127.0.0.1:{place}/image"),
    "block:ftps": _served("ftps", url="ftps://127.0.0.1:{place}/image", sslverify=False),
    # Any character device opens (hdev_open() and cdrom_open(), block/file-posix.c).
    "block:host_cdrom": Subject(_block(driver="host_cdrom", filename="/dev/null", read_only=True)),
    "block:host_device": Subject(_block(driver="host_device", filename="/dev/null")),
    "block:http": _served("http", url="http://127.0.0.1:{place}/image"),
    "block:https": _served("https", url="https://127.0.0.1:{place}/image", sslverify=False),
    "block:iscsi": _served("iscsi", transport="tcp", portal="127.0.0.1:{place}", target=iscsi.NAME),
    "block:luks": _luks(),
    "block:nbd": _served("nbd", server={"type": "unix", "path": "{place}"}),
    "block:nfs": _served("nfs", server={"type": "inet", "host": "{place}"}, path="/dir/file"),
    "block:null-aio": Subject(_block(driver="null-aio")),
    "block:null-co": Subject(_block(driver="null-co")),
    "block:preallocate": Subject(_block(driver="preallocate", file=_NULL)),
    "block:quorum": Subject(_block(driver="quorum", vote_threshold=1, children=[_NULL, _NULL])),
    "block:raw": Subject(_block(driver="raw", file=_NULL)),
    "block:replication": Subject(_block(driver="replication", mode="primary", file=_NULL)),
    "block:snapshot-access": Subject(
        _block(
            driver="snapshot-access",
            file={"driver": "copy-before-write", "file": _NULL, "target": _NULL},
        )
    ),
    "block:throttle": Subject(
        _block(driver="throttle", throttle_group="{id}-group", file=_NULL),
        (object_backend("{id}-group", qom_type="throttle-group"),),
    ),
    **{
        f"block:{name}": Subject(*_formatted(name))
        for name in "parallels qcow qcow2 qed vdi vhdx vmdk vpc".split()
    },
    "block:vvfat": Subject(_block(driver="vvfat", dir="{place}", read_only=True), (_DIRECTORY,)),
}

_DAEMON = "needs a daemon of the host ({})"
_DISPLAY = "needs a display of the host"
_SERVER = "needs a storage server ({})"

#: Reasons why QEMU may refuse what is no device.
OUTSIDE: dict[str, str] = {
    "object:can-host-socketcan": HOST_DEVICE.format("a CAN interface"),
    "object:cryptodev-backend-lkcf": "needs the kernel's crypto keyring",
    "object:dbus-vmstate": _DAEMON.format("D-Bus"),
    "object:input-barrier": _DAEMON.format("Barrier"),
    "object:input-linux": HOST_DEVICE.format("an input device"),
    "object:memory-backend-epc": HOST_DEVICE.format("the SGX enclaves"),
    "object:secret_keyring": "needs a key in the kernel's keyring",
    "object:sev-guest": HOST_DEVICE.format("the SEV processor"),
    "object:tls-creds-x509": "needs X.509 certificates",
    "object:x-remote-object": "needs a machine x-remote",
    "object:x-vfio-user-server": "needs a machine x-remote",
    "chardev:braille": _DAEMON.format("brltty"),
    "chardev:dbus": _DISPLAY,
    "chardev:parallel": HOST_DEVICE.format("a parallel port"),
    "chardev:pipe": "needs a pipe in the file system",
    "chardev:spiceport": _DISPLAY,
    "chardev:spicevmc": _DISPLAY,
    "chardev:stdio": "needs a terminal",
    "chardev:vc": _DISPLAY,
    "netdev:bridge": HOST_DEVICE.format("a bridge"),
    "netdev:l2tpv3": HOST_DEVICE.format("a network peer"),
    "netdev:netmap": HOST_DEVICE.format("the kernel module netmap"),
    "netdev:tap": HOST_DEVICE.format("a tap interface"),
    "netdev:vde": _DAEMON.format("vde_switch"),
    "netdev:vhost-vdpa": HOST_DEVICE.format("a vDPA device"),
    **{f"block:{name}": f"needs a storage cluster ({name})" for name in "gluster rbd".split()},
    **{f"block:{name}": _SERVER.format(name) for name in "ssh".split()},
    **{
        f"block:{name}": HOST_DEVICE.format("a disk")
        for name in "nvme io_uring virtio-blk-vhost-vdpa".split()
    },
}
