"""Where a monitor is: as users write it, and as a QEMU's command line has it."""

from __future__ import annotations

import json

import pytest

from qmrinspect.errors import MonitorError, UsageError
from qmrinspect.monitor.addresses import monitor_addresses, parse_address
from qmrinspect.monitor.plain import PlainMonitor
from qmrinspect.monitor.qemuopts import qemu_options

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/run/vm/qmp", "/run/vm/qmp"),
        ("unix:/run/vm/qmp", "/run/vm/qmp"),
        ("qmp.sock", "qmp.sock"),
        ("/run/a:4444", "/run/a:4444"),
        ("localhost:4444", ("localhost", 4444)),
        ("tcp:10.0.0.1:4444", ("10.0.0.1", 4444)),
        ("[::1]:4444", ("::1", 4444)),
        (":4444", ("localhost", 4444)),
    ],
)
def test_addresses_are_read(text: str, address: object) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "unix:", "tcp:host", "host:0", "host:99999"])
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


@pytest.mark.parametrize(
    ("arguments", "addresses"),
    [
        ("-qmp unix:/a/b,server=on,wait=off", ["/a/b"]),
        ("--qmp unix:rel,server,nowait", ["/cwd/rel"]),
        ("-qmp-pretty unix:/with,,comma,server=on", ["/with,comma"]),
        ("-qmp tcp:127.0.0.1:4444,server=on", ["127.0.0.1:4444"]),
        ("-qmp tcp::4444,server,nowait", ["localhost:4444"]),
        ("-qmp tcp:0.0.0.0:4444,server=on", ["127.0.0.1:4444"]),
        ("-qmp tcp:[::]:4444,server=on", ["[::1]:4444"]),
        ("-mon chardev=m,mode=control -chardev socket,id=m,path=/m,server=on", ["/m"]),
        ("-chardev socket,id=m,path=/m,server=on -mon m,mode=control,pretty=on", ["/m"]),
        ("-chardev socket,id=m,host=h,port=5,server=on -mon chardev=m,mode=control", ["h:5"]),
        ("-chardev socket,id=m,path=/m,server=on -qmp chardev:m", ["/m"]),
        ("-qmp unix:/a,server=on -qmp unix:/b,server=on -qmp unix:/a,server=on", ["/a", "/b"]),
        # libvirt hands an open socket over; the others are no QMP, or not ours to open.
        ("-chardev socket,id=m,fd=3,server=on,wait=off -mon chardev=m,mode=control", []),
        ("-chardev socket,id=m,path=/m,server=on -mon chardev=m,mode=readline", []),
        ("-chardev socket,id=m,path=/m,server=on -mon chardev=m", []),
        ("-qmp unix:/a", []),
        ("-qmp unix:/a,server=off", []),
        ("-qmp stdio -monitor unix:/a,server=on", []),
        ("-qmp tcp:h:4444,server=on,tls-creds=t", []),
        ("-qmp tcp:h:4444,server=on,telnet=on", []),
        ("-qmp unix:a,server=on,abstract=on", []),
        ("-qmp", []),
        ("-mon chardev=nowhere,mode=control", []),
    ],
)
def test_monitors_are_found_on_a_command_line(arguments: str, addresses: list[str]) -> None:
    argv = ["qemu-system-x86_64", *arguments.split(" ")]
    assert monitor_addresses(argv, cwd="/cwd") == addresses


@pytest.mark.parametrize(
    ("text", "first", "found"),
    [
        ("vm", "guest", {"guest": "vm"}),
        ("noisy,process=q", "guest", {"guest": "noisy", "process": "q"}),
        ("guest=a,,b,debug-threads=on", "guest", {"guest": "a,b", "debug-threads": "on"}),
        ("a,,b", "guest", {"guest": "a,b"}),
        ("q35,accel=kvm:tcg", "type", {"type": "q35", "accel": "kvm:tcg"}),
        ("server,nowait,nodelay", None, {"server": "on", "wait": "off", "nodelay": "on"}),
        ("", "guest", {}),
        ('{"id": "m", "wait": false}', None, {"id": "m", "wait": "off"}),
        ('{"id"', None, {}),
    ],
)
def test_options_are_taken_apart_as_qemu_does(
    text: str, first: str | None, found: dict[str, str]
) -> None:
    assert qemu_options(text, first) == found


def test_monitors_in_json_are_found() -> None:
    chardev = {
        "id": "m",
        "backend": {
            "type": "socket",
            "data": {"addr": {"type": "unix", "data": {"path": "/m"}}, "server": True},
        },
    }
    mon = {"chardev": "m", "mode": "control"}
    argv = ["qemu", "-chardev", json.dumps(chardev), "-mon", json.dumps(mon)]
    assert monitor_addresses(argv) == ["/m"]


def test_a_network_that_has_gone_is_said_to_have() -> None:
    with pytest.raises(MonitorError, match="there is no network"):
        PlainMonitor("netns:/proc/999999999/ns/net:127.0.0.1:4444")
