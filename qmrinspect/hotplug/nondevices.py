"""The catalogue of what is no device
----------------------------------

How each object, chardev and netdev is made, what stands behind it, and why
QEMU may refuse it, by ``KIND:TYPE``.

In strings, ``{id}`` is the id of what is plugged and ``{peer}`` the path of the
program or file that stands behind a backend.
"""

from __future__ import annotations

from .backends import HOST_DEVICE, VHOST_USER, chardev_backend, object_backend, only
from .blocks import BLOCKS, MAY_MISS
from .kinds import Backend, NonDevice

__all__ = ["MISSING", "NON_DEVICES"]


def _made(create: str, delete: str, key: str, **arguments: object) -> Backend:
    data = {name.replace("_", "-"): value for name, value in arguments.items()}
    return Backend(None, "{id}", create, data, delete, key)


def _plain_object(**arguments: object) -> Backend:
    return _made("object-add", "object-del", "id", **arguments)


def _character(kind: str, **data: object) -> Backend:
    backend = {"type": kind, "data": data}
    return _made("chardev-add", "chardev-remove", "id", backend=backend)


def _net(**arguments: object) -> Backend:
    return _made("netdev_add", "netdev_del", "id", **arguments)


_NETDEV = Backend(
    None, "{id}-net", "netdev_add", {"type": "hubport", "hubid": 7}, "netdev_del", "id"
)
_FILTERED = (_NETDEV,)
_MONITORED = (chardev_backend({"type": "null", "data": {}}, None),)
_DIRECTORY = only("directory")
_CONNECTED = Backend(None, "{id}-fd", "getfd", {}, "closefd", "fdname", "connected-socket")

#: What is no device: by ``KIND:TYPE``, how it is made, and what stands behind it.
NON_DEVICES: dict[str, NonDevice] = {
    "object:acpi-generic-initiator": NonDevice(_plain_object(pci_dev="{id}", node=0)),
    "object:acpi-generic-port": NonDevice(_plain_object(pci_bus="pci.0", node=0)),
    "object:authz-list": NonDevice(_plain_object(policy="deny")),
    "object:authz-simple": NonDevice(_plain_object(identity="nobody")),
    # QAPI calls it authz-listfile (qapi/qom.json), and QOM authz-list-file: no QEMU up to
    # 10.0 takes either name.
    "object:authz-list-file": NonDevice(_plain_object(filename="{peer}/list"), (_DIRECTORY,)),
    "object:authz-pam": NonDevice(_plain_object(service="qmr")),
    # "if" is a word of Python.
    "object:can-host-socketcan": NonDevice(
        _plain_object(**{"if": "can0", "canbus": "qmr-can"}), start_options=("can",)
    ),
    "object:cryptodev-backend-builtin": NonDevice(_plain_object()),
    "object:cryptodev-vhost-user": NonDevice(
        _plain_object(chardev="{id}-chardev"),
        (VHOST_USER._replace(property=None),),
    ),
    "object:colo-compare": NonDevice(
        Backend(
            None,
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
            chardev_backend({"type": "null", "data": {}}, None),
            chardev_backend({"type": "null", "data": {}}, None, name="second"),
            chardev_backend({"type": "null", "data": {}}, None, name="third"),
            object_backend("{id}-thread", qom_type="iothread"),
        ),
    ),
    "object:dbus-vmstate": NonDevice(_plain_object(addr="unix:path={peer}"), (only("d-bus"),)),
    "object:filter-buffer": NonDevice(_plain_object(netdev="{id}-net", interval=1000), _FILTERED),
    "object:filter-dump": NonDevice(
        _plain_object(netdev="{id}-net", file="{peer}/dump"),
        (_DIRECTORY, _NETDEV),
    ),
    "object:filter-mirror": NonDevice(
        _plain_object(netdev="{id}-net", outdev="{id}-chardev"),
        (_NETDEV, chardev_backend({"type": "null", "data": {}}, None)),
    ),
    "object:filter-redirector": NonDevice(
        _plain_object(netdev="{id}-net", outdev="{id}-chardev"),
        (_NETDEV, chardev_backend({"type": "null", "data": {}}, None)),
    ),
    "object:filter-replay": NonDevice(_plain_object(netdev="{id}-net"), _FILTERED),
    "object:filter-rewriter": NonDevice(_plain_object(netdev="{id}-net"), _FILTERED),
    "object:input-barrier": NonDevice(
        _plain_object(name="qmr", server="127.0.0.1", port="{peer}"), (only("listener"),)
    ),
    "object:input-linux": NonDevice(_plain_object(evdev="/dev/input/event0")),
    "object:iothread": NonDevice(_plain_object()),
    "object:memory-backend-epc": NonDevice(_plain_object(size=1 << 20)),
    "object:memory-backend-file": NonDevice(
        _plain_object(size=1 << 20, mem_path="{peer}/memory"),
        (_DIRECTORY,),
    ),
    "object:memory-backend-memfd": NonDevice(_plain_object(size=1 << 20)),
    "object:memory-backend-ram": NonDevice(_plain_object(size=1 << 20)),
    "object:memory-backend-shm": NonDevice(_plain_object(size=1 << 20)),
    "object:monitor-hmp": NonDevice(_plain_object(chardev="{id}-chardev"), _MONITORED),
    "object:monitor-qmp": NonDevice(_plain_object(chardev="{id}-chardev"), _MONITORED),
    "object:pr-manager-helper": NonDevice(_plain_object(path="{peer}"), (only("pr-helper"),)),
    "object:qtest": NonDevice(
        _plain_object(chardev="{id}-chardev"),
        (chardev_backend({"type": "null", "data": {}}, None),),
    ),
    "object:rng-builtin": NonDevice(_plain_object()),
    "object:rng-egd": NonDevice(
        _plain_object(chardev="{id}-chardev"),
        (chardev_backend({"type": "null", "data": {}}, None),),
    ),
    "object:rng-random": NonDevice(_plain_object(filename="/dev/urandom")),
    "object:secret": NonDevice(_plain_object(data="secret")),
    "object:secret_keyring": NonDevice(_plain_object(serial="{peer:d}"), (only("secret-key"),)),
    # Only a VM that is started with it asks the processor.
    "object:sev-guest": NonDevice(_plain_object(cbitpos=51, reduced_phys_bits=1)),
    "object:sev-snp-guest": NonDevice(_plain_object(cbitpos=51, reduced_phys_bits=1)),
    "object:thread-context": NonDevice(_plain_object()),
    "object:throttle-group": NonDevice(_plain_object()),
    "object:tls-cipher-suites": NonDevice(_plain_object(priority="NORMAL")),
    "object:tls-creds-anon": NonDevice(_plain_object(endpoint="client")),
    "object:tls-creds-psk": NonDevice(
        _plain_object(endpoint="client", dir="{peer}"), (only("keys"),)
    ),
    "object:tls-creds-x509": NonDevice(
        _plain_object(endpoint="server", dir="{peer}", verify_peer=False), (only("certificates"),)
    ),
    "object:x-remote-object": NonDevice(
        _plain_object(fd="{id}-fd", devid="qmr-remote"),
        (_CONNECTED,),
        start_options=("remote",),
        machine="x-remote",
    ),
    "chardev:braille": NonDevice(_character("braille"), (only("braille"),)),
    "chardev:dbus": NonDevice(_character("dbus", name="org.qemu.qmr")),
    "chardev:file": NonDevice(_character("file", out="{peer}/out"), (_DIRECTORY,)),
    "chardev:hub": NonDevice(
        _character("hub", chardevs=["{id}-chardev"]),
        (chardev_backend({"type": "null", "data": {}}, None),),
    ),
    "chardev:memory": NonDevice(_character("memory", size=4096)),
    "chardev:mux": NonDevice(
        _character("mux", chardev="{id}-chardev"),
        (chardev_backend({"type": "null", "data": {}}, None),),
    ),
    "chardev:null": NonDevice(_character("null")),
    "chardev:parallel": NonDevice(_character("parallel", device="/dev/parport0")),
    "chardev:pipe": NonDevice(_character("pipe", device="{peer}"), (only("pipe"),)),
    "chardev:pty": NonDevice(_character("pty")),
    "chardev:qemu-vdagent": NonDevice(_character("qemu-vdagent")),
    "chardev:ringbuf": NonDevice(_character("ringbuf", size=4096)),
    "chardev:serial": NonDevice(_character("serial", device="/dev/ptmx")),
    "chardev:socket": NonDevice(
        _character("socket", addr={"type": "unix", "data": {"path": "{peer}/socket"}}, wait=False),
        (_DIRECTORY,),
    ),
    "chardev:spiceport": NonDevice(
        _character("spiceport", fqdn="org.qemu.qmr"), start_options=("spice",)
    ),
    "chardev:spicevmc": NonDevice(_character("spicevmc", type="vdagent")),
    "chardev:testdev": NonDevice(_character("testdev")),
    "chardev:udp": NonDevice(
        _character("udp", remote={"type": "inet", "data": {"host": "127.0.0.1", "port": "9"}})
    ),
    "chardev:wctablet": NonDevice(_character("wctablet")),
    "chardev:msmouse": NonDevice(_character("msmouse")),
    # The tap interface of the helper is on no bridge.
    "netdev:bridge": NonDevice(
        _net(type="bridge", helper="/bin/sh {peer}", br="qmr"), (only("bridge-helper"),)
    ),
    "netdev:dgram": NonDevice(
        _net(
            type="dgram",
            local={"type": "unix", "path": "{peer}/one"},
            remote={"type": "unix", "path": "{peer}/two"},
        ),
        (_DIRECTORY,),
    ),
    "netdev:hubport": NonDevice(_net(type="hubport", hubid=8)),
    # Nobody need be at the other end; port 0 is any that is free.
    "netdev:l2tpv3": NonDevice(
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
    "netdev:netmap": NonDevice(_net(type="netmap", ifname="netmap:qmr")),
    "netdev:socket": NonDevice(_net(type="socket", listen="127.0.0.1:0")),
    "netdev:stream": NonDevice(
        _net(type="stream", server=True, addr={"type": "unix", "path": "{peer}/stream"}),
        (_DIRECTORY,),
    ),
    # The kernel chooses the interface's name.
    "netdev:tap": NonDevice(_net(type="tap", script="no", downscript="no")),
    "netdev:user": NonDevice(_net(type="user")),
    "netdev:vde": NonDevice(_net(type="vde", sock="{peer}"), (only("vde-switch"),)),
    "netdev:vhost-vdpa": NonDevice(_net(type="vhost-vdpa", vhostdev="/dev/vhost-vdpa-0")),
    "netdev:vhost-user": NonDevice(
        _net(type="vhost-user", chardev="{id}-chardev"),
        (VHOST_USER._replace(property=None),),
    ),
    **BLOCKS,
}


#: Reasons why QEMU may refuse what is no device.
MISSING: dict[str, str] = {
    "object:can-host-socketcan": HOST_DEVICE.format("a CAN interface"),
    "object:cryptodev-backend-lkcf": "needs the kernel's crypto keyring",
    "object:input-linux": HOST_DEVICE.format("an input device"),
    "object:iommufd": HOST_DEVICE.format("the kernel's IOMMUFD"),
    "object:memory-backend-epc": HOST_DEVICE.format("the SGX enclaves"),
    "object:x-vfio-user-server": "needs a machine x-remote with vfio-user",
    "chardev:braille": "needs the socket of BrlAPI where QEMU runs",
    "chardev:parallel": HOST_DEVICE.format("a parallel port"),
    "chardev:spiceport": "needs a VM with a SPICE server",
    "netdev:netmap": HOST_DEVICE.format("the kernel module netmap"),
    "netdev:bridge": "needs a helper that can run where QEMU does",
    "netdev:passt": "needs the program passt",
    "netdev:tap": HOST_DEVICE.format("a tap interface"),
    "netdev:vhost-vdpa": HOST_DEVICE.format("a vDPA device"),
    **MAY_MISS,
}
