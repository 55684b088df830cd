"""The catalogue of what is no device
----------------------------------

How each object, chardev and netdev is made, what stands behind it, and why
QEMU may refuse it, by ``KIND:TYPE``.

In strings, ``{id}`` is the id of what is plugged and ``{place}`` the path of the
program or file that stands behind a backend.
"""

from __future__ import annotations

from .backends import HOST_DEVICE, VHOST_USER, chardev_backend, object_backend
from .blocks import BLOCKS, BLOCKS_OUTSIDE
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


_NETDEV = Backend("", "{id}-net", "netdev_add", {"type": "hubport", "hubid": 7}, "netdev_del", "id")
_FILTERED = (_NETDEV,)
_DIRECTORY = Backend("", "{place}", "", {}, "", "", "directory")
_KEYS = Backend("", "{place}", "", {}, "", "", "keys")
_HELPER = Backend("", "{place}", "", {}, "", "", "pr-helper")

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
    **BLOCKS,
}

_DAEMON = "needs a daemon of the host ({})"
_DISPLAY = "needs a display of the host"

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
    **BLOCKS_OUTSIDE,
}
