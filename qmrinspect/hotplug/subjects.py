"""The catalogue of what is no device
----------------------------------

How each object, chardev and netdev is made, what stands behind it, and why
QEMU may refuse it, by ``KIND:TYPE``.

In strings, ``{id}`` is the id of what is plugged and ``{peer}`` the path of the
program or file that stands behind a backend.
"""

from __future__ import annotations

from .backends import HOST_DEVICE, VHOST_USER, chardev_backend, object_backend, only
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
_DIRECTORY = only("directory")
_CONNECTED = Backend("", "{id}-fd", "getfd", {}, "closefd", "fdname", "connected-socket")

#: What is no device: by ``KIND:TYPE``, how it is made, and what stands behind it.
SUBJECTS: dict[str, Subject] = {
    "object:acpi-generic-initiator": Subject(_plain_object(pci_dev="{id}", node=0)),
    "object:acpi-generic-port": Subject(_plain_object(pci_bus="pci.0", node=0)),
    "object:authz-list": Subject(_plain_object(policy="deny")),
    "object:authz-simple": Subject(_plain_object(identity="nobody")),
    # QAPI calls it authz-listfile (qapi/qom.json), and QOM authz-list-file: no QEMU up to
    # 10.0 takes either name.
    "object:authz-list-file": Subject(_plain_object(filename="{peer}/list"), (_DIRECTORY,)),
    "object:authz-pam": Subject(_plain_object(service="qmr")),
    # "if" is a word of Python.
    "object:can-host-socketcan": Subject(
        _plain_object(**{"if": "can0", "canbus": "qmr-can"}), hosts=("can",)
    ),
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
    "object:dbus-vmstate": Subject(_plain_object(addr="unix:path={peer}"), (only("d-bus"),)),
    "object:filter-buffer": Subject(_plain_object(netdev="{id}-net", interval=1000), _FILTERED),
    "object:filter-dump": Subject(
        _plain_object(netdev="{id}-net", file="{peer}/dump"),
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
    "object:input-barrier": Subject(
        _plain_object(name="qmr", server="127.0.0.1", port="{peer}"), (only("listener"),)
    ),
    "object:input-linux": Subject(_plain_object(evdev="/dev/input/event0")),
    "object:iothread": Subject(_plain_object()),
    "object:memory-backend-epc": Subject(_plain_object(size=1 << 20)),
    "object:memory-backend-file": Subject(
        _plain_object(size=1 << 20, mem_path="{peer}/memory"),
        (_DIRECTORY,),
    ),
    "object:memory-backend-memfd": Subject(_plain_object(size=1 << 20)),
    "object:memory-backend-ram": Subject(_plain_object(size=1 << 20)),
    "object:memory-backend-shm": Subject(_plain_object(size=1 << 20)),
    "object:pr-manager-helper": Subject(_plain_object(path="{peer}"), (only("pr-helper"),)),
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
    "object:secret_keyring": Subject(_plain_object(serial="{peer:d}"), (only("secret-key"),)),
    # Only a VM that is started with it asks the processor.
    "object:sev-guest": Subject(_plain_object(cbitpos=51, reduced_phys_bits=1)),
    "object:sev-snp-guest": Subject(_plain_object(cbitpos=51, reduced_phys_bits=1)),
    "object:thread-context": Subject(_plain_object()),
    "object:throttle-group": Subject(_plain_object()),
    "object:tls-cipher-suites": Subject(_plain_object(priority="NORMAL")),
    "object:tls-creds-anon": Subject(_plain_object(endpoint="client")),
    "object:tls-creds-psk": Subject(
        _plain_object(endpoint="client", dir="{peer}"), (only("keys"),)
    ),
    "object:tls-creds-x509": Subject(
        _plain_object(endpoint="server", dir="{peer}", verify_peer=False), (only("certificates"),)
    ),
    "object:x-remote-object": Subject(
        _plain_object(fd="{id}-fd", devid="qmr-remote"),
        (_CONNECTED,),
        hosts=("remote",),
        machine="x-remote",
    ),
    "chardev:braille": Subject(_character("braille"), (only("braille"),)),
    "chardev:dbus": Subject(_character("dbus", name="org.qemu.qmr")),
    "chardev:file": Subject(_character("file", out="{peer}/out"), (_DIRECTORY,)),
    "chardev:hub": Subject(
        _character("hub", chardevs=["{id}-chardev"]),
        (chardev_backend({"type": "null", "data": {}}, ""),),
    ),
    "chardev:memory": Subject(_character("memory", size=4096)),
    "chardev:mux": Subject(
        _character("mux", chardev="{id}-chardev"),
        (chardev_backend({"type": "null", "data": {}}, ""),),
    ),
    "chardev:null": Subject(_character("null")),
    "chardev:parallel": Subject(_character("parallel", device="/dev/parport0")),
    "chardev:pipe": Subject(_character("pipe", device="{peer}"), (only("pipe"),)),
    "chardev:pty": Subject(_character("pty")),
    "chardev:qemu-vdagent": Subject(_character("qemu-vdagent")),
    "chardev:ringbuf": Subject(_character("ringbuf", size=4096)),
    "chardev:serial": Subject(_character("serial", device="/dev/ptmx")),
    "chardev:socket": Subject(
        _character("socket", addr={"type": "unix", "data": {"path": "{peer}/socket"}}, wait=False),
        (_DIRECTORY,),
    ),
    "chardev:spiceport": Subject(_character("spiceport", fqdn="org.qemu.qmr"), hosts=("spice",)),
    "chardev:spicevmc": Subject(_character("spicevmc", type="vdagent")),
    "chardev:testdev": Subject(_character("testdev")),
    "chardev:udp": Subject(
        _character("udp", remote={"type": "inet", "data": {"host": "127.0.0.1", "port": "9"}})
    ),
    "chardev:wctablet": Subject(_character("wctablet")),
    "chardev:msmouse": Subject(_character("msmouse")),
    # The tap interface of the helper is on no bridge.
    "netdev:bridge": Subject(
        _net(type="bridge", helper="/bin/sh {peer}", br="qmr"), (only("bridge-helper"),)
    ),
    "netdev:dgram": Subject(
        _net(
            type="dgram",
            local={"type": "unix", "path": "{peer}/one"},
            remote={"type": "unix", "path": "{peer}/two"},
        ),
        (_DIRECTORY,),
    ),
    "netdev:hubport": Subject(_net(type="hubport", hubid=8)),
    # Nobody need be at the other end; port 0 is any that is free.
    "netdev:l2tpv3": Subject(
        _net(
            type="l2tpv3",
            udp=True,
            src="127.0.0.1",
            dst="127.0.0.1",
            srcport="0",
            dstport="9",
            txsession=1,
        )
    ),
    "netdev:netmap": Subject(_net(type="netmap", ifname="netmap:qmr")),
    "netdev:socket": Subject(_net(type="socket", listen="127.0.0.1:0")),
    "netdev:stream": Subject(
        _net(type="stream", server=True, addr={"type": "unix", "path": "{peer}/stream"}),
        (_DIRECTORY,),
    ),
    # The kernel chooses the interface's name.
    "netdev:tap": Subject(_net(type="tap", script="no", downscript="no")),
    "netdev:user": Subject(_net(type="user")),
    "netdev:vde": Subject(_net(type="vde", sock="{peer}"), (only("vde-switch"),)),
    "netdev:vhost-vdpa": Subject(_net(type="vhost-vdpa", vhostdev="/dev/vhost-vdpa-0")),
    "netdev:vhost-user": Subject(
        _net(type="vhost-user", chardev="{id}-chardev"),
        (VHOST_USER._replace(property=""),),
    ),
    **BLOCKS,
}


#: Reasons why QEMU may refuse what is no device.
OUTSIDE: dict[str, str] = {
    "object:can-host-socketcan": HOST_DEVICE.format("a CAN interface"),
    "object:cryptodev-backend-lkcf": "needs the kernel's crypto keyring",
    "object:input-linux": HOST_DEVICE.format("an input device"),
    "object:memory-backend-epc": HOST_DEVICE.format("the SGX enclaves"),
    "object:x-vfio-user-server": "needs a machine x-remote with vfio-user",
    "chardev:parallel": HOST_DEVICE.format("a parallel port"),
    "chardev:spiceport": "needs a VM with a SPICE server",
    "netdev:netmap": HOST_DEVICE.format("the kernel module netmap"),
    "netdev:tap": HOST_DEVICE.format("a tap interface"),
    "netdev:vhost-vdpa": HOST_DEVICE.format("a vDPA device"),
    **BLOCKS_OUTSIDE,
}
