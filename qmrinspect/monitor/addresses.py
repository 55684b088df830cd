"""Addresses of monitors
---------------------
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple, Union

from ..errors import MonitorError, UsageError
from ..target.rooted import open_in_root
from .netns import is_elsewhere
from .qemuopts import qemu_options

__all__ = [
    "Address",
    "Inside",
    "address_text",
    "addresses_here",
    "monitor_addresses",
    "monitors_of",
    "parse_address",
]


class Inside(NamedTuple):
    """Host and port in another network namespace.

    :param namespace: its path, ``/proc/PID/ns/net``.
    """

    namespace: str
    host: str
    port: int


#: The path of a unix socket, or host and port.
Address = Union[str, tuple[str, int], Inside]


def parse_address(text: str) -> Address:
    """Read ``HOST:PORT``, ``[IPV6]:PORT``, ``tcp:HOST:PORT``, ``unix:PATH`` or ``PATH``.

    ``netns:PATH:HOST:PORT`` is in another network namespace.

    :raises UsageError: it is empty, or the port is none.
    """
    if text.startswith("netns:"):
        namespace, _, text = text[len("netns:") :].partition(":")
        return Inside(namespace, *_host_and_port(text))
    if text.startswith("unix:"):
        text, kind = text[len("unix:") :], "unix"
    elif text.startswith("tcp:"):
        text, kind = text[len("tcp:") :], "tcp"
    else:
        _, colon, port = text.rpartition(":")
        kind = "tcp" if colon and port.isdigit() and "/" not in text else "unix"
    if kind == "unix":
        if not text:
            raise UsageError("the monitor's address is empty", "give a socket's path or HOST:PORT")
        return text
    return _host_and_port(text)


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"{text!r} has no valid TCP port", "give a monitor as HOST:PORT")
    return host.strip("[]") or "localhost", int(port)


def monitors_of(pid: int | None, argv: list[str]) -> list[str]:
    """Find the QMP sockets of a QEMU, as :func:`addresses_here`.

    :raises MonitorError: it has none.
    """
    addresses = addresses_here(pid, argv)
    if not addresses:
        name = "this QEMU" if pid is None else f"QEMU {pid}"
        raise MonitorError(
            f"{name} has no QMP socket on its command line",
            "name it with --qmp, or start QEMU with -qmp unix:FILE,server=on,wait=off",
        )
    return addresses


def addresses_here(pid: int | None, argv: list[str]) -> list[str]:
    """Return the addresses of :func:`monitor_addresses` as they are reached from here.

    The sockets of a QEMU in a container or a chroot lie in its own root directory, and what
    has host and port in its own network.

    :param pid: its process on this machine; None when it runs on another one.
    """
    if pid is None:
        return monitor_addresses(argv)
    root, cwd = _directories(pid)
    addresses = monitor_addresses(argv, cwd)
    if is_elsewhere(pid):
        prefix = f"netns:/proc/{pid}/ns/net:"
        addresses = [a if "/" in a else prefix + a for a in addresses]
    return addresses if root is None else [_inside(root, address) for address in addresses]


def _directories(pid: int) -> tuple[str | None, str | None]:
    """Return the root directory of a process, None when it is ours, and its working directory.

    The working directory is named as the process itself names it, None where it may not be seen.
    """
    proc = f"/proc/{pid}"
    try:
        cwd = os.readlink(f"{proc}/cwd")
        same = os.path.samefile(f"{proc}/root", "/")
        same = same and os.path.samefile(f"{proc}/ns/mnt", "/proc/self/ns/mnt")
        root = os.readlink(f"{proc}/root").rstrip("/")
    except OSError:
        return None, None
    if same:
        return None, cwd
    return f"{proc}/root", cwd[len(root) :] if cwd.startswith(f"{root}/") else cwd


def _inside(root: str, address: str) -> str:
    if not address.startswith("/"):
        return address
    try:
        fd, real = open_in_root(root, address, os.O_PATH)
    except OSError:
        return root + address
    os.close(fd)
    return root + real


def monitor_addresses(argv: list[str], cwd: str | None = None) -> list[str]:
    """Find the QMP sockets that a QEMU listens on, from its command line.

    Left out is what nobody can connect to: sockets that were handed over as file
    descriptors (libvirt), that QEMU connects itself (no ``server``), that speak TLS,
    telnet or websocket, and monitors for people.  Follows ``monitor_parse()`` and
    ``qemu_chr_parse_compat()`` of QEMU.

    :param argv: the whole command line, the program first.
    :param cwd: QEMU's working directory, to which relative paths belong; None when not known.
    :return: addresses for :func:`parse_address`, in the order of the command line.
    """
    chardevs: dict[str, dict[str, str]] = {}
    monitors: list[str | dict[str, str]] = []
    words = iter(argv[1:])
    for word in words:
        if not word.startswith("-"):
            continue
        option = word[1:] if word.startswith("--") else word
        if option not in ("-qmp", "-qmp-pretty", "-mon", "-chardev"):
            continue
        value = next(words, "")
        if option == "-chardev":
            options = qemu_options(value, "backend")
            if options.get("backend") == "socket" and "id" in options:
                chardevs[options["id"]] = options
        elif option == "-mon":
            options = qemu_options(value, "chardev")
            if options.get("mode") == "control" and "chardev" in options:
                monitors.append(options["chardev"])
        elif value.startswith("chardev:"):
            monitors.append(value[len("chardev:") :])
        elif value.startswith("unix:"):
            monitors.append(qemu_options(value[len("unix:") :], "path"))
        elif value.startswith("tcp:"):
            place, _, rest = value[len("tcp:") :].partition(",")
            host, _, port = place.rpartition(":")
            monitors.append({**qemu_options(rest), "host": host, "port": port})
    addresses = []
    for monitor in monitors:
        options = chardevs.get(monitor, {}) if isinstance(monitor, str) else monitor
        address = _listening_address(options, cwd)
        if address is not None and address not in addresses:
            addresses.append(address)
    return addresses


def _listening_address(options: Mapping[str, str], cwd: str | None) -> str | None:
    off = ("off", "no", "false", "n")
    if options.get("server", "off") in off:
        return None
    if any(options.get(key, "off") not in off for key in ("telnet", "tn3270", "websocket")):
        return None
    if "tls-creds" in options or "fd" in options:
        return None
    if options.get("path"):
        if options.get("abstract", "off") not in off:
            return None
        path = os.path.join(cwd or "", options["path"])
        # A path must not be taken for HOST:PORT.
        return path if "/" in path else "./" + path
    port = options.get("port", "")
    if not port.isdigit() or not int(port):
        return None
    host = {"": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(
        options.get("host", "").strip("[]"), options.get("host", "").strip("[]")
    )
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_text(address: Address) -> str:
    """Return the address as people write it."""
    if isinstance(address, str):
        return address
    if isinstance(address, Inside):
        return f"netns:{address.namespace}:{address_text(address[1:])}"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
