"""Monitor
-------

One synchronous face of QEMU's machine protocol (QMP), whatever carries it.

Two modules implement it: :mod:`qmrinspect.hotplug.qmp` over the qemu.qmp package,
and :mod:`qmrinspect.hotplug.plainqmp` over a plain socket, for the Python inside
GDB.  What both need is here: addresses, events, and the words of every failure.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Callable, NamedTuple, Union

from ..errors import MonitorError, UsageError

__all__ = [
    "COMMAND_TIMEOUT",
    "GREETING_TIMEOUT",
    "Address",
    "CommandError",
    "Event",
    "EventQueue",
    "Monitor",
    "MonitorBusy",
    "MonitorLost",
    "MonitorTimeout",
    "connect_socket",
    "monitor_addresses",
    "open_monitor",
    "parse_address",
]

#: Seconds that QEMU has for its greeting; an idle QEMU needs a millisecond.
GREETING_TIMEOUT = 1.0

#: Seconds that a command may take when its caller does not say.
COMMAND_TIMEOUT = 10.0

# Seconds between attempts to enter a socket's backlog.
_BACKLOG_POLL = 0.01

#: The path of a unix socket, or host and port.
Address = Union[str, tuple[str, int]]

Wanted = Union[str, tuple[str, ...], Callable[["Event"], bool]]


class CommandError(MonitorError):
    """QEMU refused a command.

    :param command: the command that was sent.
    :param error_class: QEMU's ``QapiErrorClass``, ``GenericError`` mostly.
    :param desc: QEMU's own sentence.
    """

    def __init__(self, command: str, error_class: str, desc: str) -> None:
        super().__init__(f"QEMU refused {command}: {desc}")
        self.command = command
        self.error_class = error_class
        self.desc = desc


class MonitorLost(MonitorError):
    """The connection is gone: QEMU died, or closed it, or sent nonsense."""


class MonitorBusy(MonitorError):
    """The monitor is there, and does not greet: another client holds it."""


class MonitorTimeout(MonitorError):
    """QEMU did not answer in time; the connection is still good."""


class Event(NamedTuple):
    """One asynchronous message of QEMU.

    ``timestamp_us`` is QEMU's own wall clock, in microseconds since 1970.
    """

    name: str
    data: Mapping[str, Any]
    timestamp_us: int

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Event:
        """Decode a QMP message that has the key ``event``; absent parts become empty."""
        stamp = message.get("timestamp")
        stamp_us = 0
        if isinstance(stamp, Mapping):
            # QEMU sends -1 for both when its clock fails (docs/interop/qmp-spec).
            stamp_us = int(stamp.get("seconds", 0)) * 1_000_000 + int(stamp.get("microseconds", 0))
        data = message.get("data")
        return cls(str(message["event"]), data if isinstance(data, Mapping) else {}, stamp_us)


class EventQueue:
    """Events that nobody asked for yet, bounded; the oldest go first.

    One thread may fill it while another waits.

    :param maxlen: how many events are kept.
    """

    def __init__(self, maxlen: int = 4096) -> None:
        self._events: deque[Event] = deque(maxlen=maxlen)
        self._changed = threading.Condition()
        self._failure: MonitorError | None = None
        #: How many events were thrown away because the queue was full.
        self.dropped = 0
        #: How many events are kept.
        self.maxlen = maxlen

    def put(self, event: Event) -> None:
        """Append an event; the oldest one is dropped and counted when there is no room."""
        with self._changed:
            if len(self._events) == self._events.maxlen:
                self.dropped += 1
            self._events.append(event)
            self._changed.notify_all()

    def fail(self, error: MonitorError) -> None:
        """Tell whoever waits that no event will come any more; the first error stays."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    @property
    def failure(self) -> MonitorError | None:
        """Why no event comes any more, or None."""
        return self._failure

    def drain(self) -> list[Event]:
        """Take all events, oldest first."""
        with self._changed:
            events = list(self._events)
            self._events.clear()
            return events

    def take(self, wanted: Wanted) -> Event | None:
        """Take the oldest event that is wanted, and leave the others."""
        with self._changed:
            return self._take(_predicate(wanted))

    def wait(self, wanted: Wanted, timeout: float) -> Event | None:
        """Like :meth:`take`, and wait up to ``timeout`` seconds for it.

        :raises MonitorError: no such event is here, and none can come any more.
        """
        accept = _predicate(wanted)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                event = self._take(accept)
                if event is not None:
                    return event
                if self._failure is not None:
                    raise self._failure
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)

    def _take(self, accept: Callable[[Event], bool]) -> Event | None:
        for index, event in enumerate(self._events):
            if accept(event):
                del self._events[index]
                return event
        return None


def _predicate(wanted: Wanted) -> Callable[[Event], bool]:
    if callable(wanted):
        return wanted
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    return lambda event: event.name in names


class Monitor(ABC):
    """A QMP session; a context manager that closes itself.

    Every method ends within the time it was given, and raises
    :class:`~qmrinspect.errors.MonitorError` when the connection is no more.
    """

    #: What the monitor was opened with, as text.
    address: str
    #: QEMU's version as it greeted, ``"7.2.22"``, or "" when it did not say.
    version: str

    @abstractmethod
    def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        timeout: float = COMMAND_TIMEOUT,
    ) -> object:
        """Run a command and return what QEMU returned.

        :param timeout: in seconds.
        :raises CommandError: QEMU refused.
        :raises MonitorTimeout: no answer in time; it is thrown away when it comes.
        :raises MonitorLost: QEMU died, or sent what is no QMP.
        """

    def pass_descriptor(self, name: str, descriptor: int, timeout: float = COMMAND_TIMEOUT) -> None:
        """Give QEMU a copy of a file descriptor, under a name (``getfd``).

        :raises CommandError: QEMU refused, or this monitor is no unix socket of our own.
        """
        raise CommandError("getfd", "GenericError", "this monitor passes no file descriptors")

    @abstractmethod
    def events(self) -> list[Event]:
        """Take all events that have arrived, oldest first."""

    @abstractmethod
    def wait_event(self, wanted: Wanted, timeout: float) -> Event | None:
        """Take the first event that is wanted, or None after ``timeout`` seconds.

        Other events stay for :meth:`events`.

        :param wanted: an event's name, a tuple of names, or a predicate.
        :raises MonitorLost: the connection ended before such an event came.
        """

    @property
    @abstractmethod
    def dropped(self) -> int:
        """How many events were lost because nobody took them."""

    @abstractmethod
    def close(self) -> None:
        """End the session; QEMU then serves the next client.  Never raises."""

    def hmp(self, line: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a line of the human monitor and return what it printed."""
        arguments = {"command-line": line}
        return str(self.execute("human-monitor-command", arguments, timeout=timeout))

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_monitor(address: str | Address, timeout: float = GREETING_TIMEOUT) -> Monitor:
    """Open a monitor over qemu.qmp where that is installed, else over a plain socket.

    :param timeout: seconds for the connection and the greeting.
    :raises MonitorError: it cannot be reached, is held, or is no QMP monitor.
    """
    try:
        from .qmp import QmpMonitor
    except ImportError:
        from .plainqmp import PlainMonitor

        return PlainMonitor(address, timeout)
    return QmpMonitor(address, timeout)


# Addresses -----------------------------------------------------------------------


def parse_address(text: str) -> Address:
    """Read ``HOST:PORT``, ``[IPV6]:PORT``, ``tcp:HOST:PORT``, ``unix:PATH`` or ``PATH``.

    :raises UsageError: it is empty, or the port is none.
    """
    if text.startswith("unix:"):
        text, kind = text[len("unix:") :], "unix"
    elif text.startswith("tcp:"):
        text, kind = text[len("tcp:") :], "tcp"
    else:
        host, colon, port = text.rpartition(":")
        kind = "tcp" if colon and port.isdigit() and "/" not in text else "unix"
    if kind == "unix":
        if not text:
            raise UsageError("the monitor's address is empty", "give a socket's path or HOST:PORT")
        return text
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"{text!r} has no valid TCP port", "give a monitor as HOST:PORT")
    return host.strip("[]") or "localhost", int(port)


def monitor_addresses(argv: list[str], cwd: str = "") -> list[str]:
    """Find the QMP sockets that a QEMU listens on, from its command line.

    Left out is what nobody can connect to: sockets that were handed over as file
    descriptors (libvirt), that QEMU connects itself (no ``server``), that speak TLS,
    telnet or websocket, and monitors for people.  Follows ``monitor_parse()`` and
    ``qemu_chr_parse_compat()`` of QEMU.

    :param argv: the whole command line, the program first.
    :param cwd: QEMU's working directory, to which relative paths belong.
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
            options = _options(value, "backend")
            if options.get("backend") == "socket" and "id" in options:
                chardevs[options["id"]] = options
        elif option == "-mon":
            options = _options(value, "chardev")
            if options.get("mode") == "control" and "chardev" in options:
                monitors.append(options["chardev"])
        elif value.startswith("chardev:"):
            monitors.append(value[len("chardev:") :])
        elif value.startswith("unix:"):
            monitors.append(_options(value[len("unix:") :], "path"))
        elif value.startswith("tcp:"):
            place, _, rest = value[len("tcp:") :].partition(",")
            host, _, port = place.rpartition(":")
            monitors.append({**_options(rest, ""), "host": host, "port": port})
    addresses = []
    for monitor in monitors:
        options = chardevs.get(monitor, {}) if isinstance(monitor, str) else monitor
        address = _listening_address(options, cwd)
        if address and address not in addresses:
            addresses.append(address)
    return addresses


def _options(text: str, first: str) -> dict[str, str]:
    """Split QemuOpts (``k=v,flag,noflag``; a comma in a value is doubled) or JSON."""
    if text.startswith("{"):
        try:
            found: dict[str, str] = {}
            _flatten(json.loads(text), found)
            return found
        except ValueError:
            return {}
    options: dict[str, str] = {}
    parts = text.replace(",,", "\0").split(",") if text else []
    for index, part in enumerate(part.replace("\0", ",") for part in parts):
        key, equals, value = part.partition("=")
        if equals:
            options[key] = value
        elif index == 0 and first:
            options[first] = part
        elif part.startswith("no") and part != "nodelay":
            options[part[2:]] = "off"
        else:
            options[part] = "on"
    return options


def _flatten(value: object, found: dict[str, str]) -> None:
    # ChardevBackend nests {"backend": {"type": "socket", "data": {"addr": {"data": ..}}}}.
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key == "backend" and isinstance(item, dict):
            found["backend"] = str(item.get("type", ""))
            _flatten(item.get("data"), found)
        elif isinstance(item, dict):
            _flatten(item, found)
        elif isinstance(item, bool):
            found[key] = "on" if item else "off"
        elif isinstance(item, (str, int)) and key != "type":
            found[key] = str(item)


def _listening_address(options: Mapping[str, str], cwd: str) -> str:
    off = ("off", "no", "false", "n")
    if options.get("server", "off") in off:
        return ""
    if any(options.get(key, "off") not in off for key in ("telnet", "tn3270", "websocket")):
        return ""
    if "tls-creds" in options or "fd" in options:
        return ""
    if options.get("path"):
        if options.get("abstract", "off") not in off:
            return ""
        path = os.path.join(cwd, options["path"])
        # A path must not be taken for HOST:PORT.
        return path if "/" in path else "./" + path
    port = options.get("port", "")
    if not port.isdigit() or not int(port):
        return ""
    host = {"": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(
        options.get("host", "").strip("[]"), options.get("host", "").strip("[]")
    )
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_text(address: Address) -> str:
    # The address as people write it.
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# What both implementations share -------------------------------------------------


def connect_socket(address: Address, timeout: float) -> socket.socket:
    """Connect a stream socket.

    :param timeout: in seconds.
    :raises MonitorError: nobody listens, it is not permitted, or the queue is full.
    """
    try:
        if not isinstance(address, str):
            return socket.create_connection(address, timeout)
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.settimeout(timeout)
            _connect_unix(stream, address, timeout)
        except BaseException:
            stream.close()
            raise
        return stream
    except (OSError, ValueError) as error:
        raise _connect_error(address_text(address), timeout, error) from error


def _connect_error(address: str, timeout: float, error: Exception) -> MonitorError:
    if isinstance(error, (socket.timeout, BlockingIOError)):
        return busy_error(address, timeout)
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT:
        return MonitorError(f"there is no monitor socket {address}", "is QEMU still running?")
    if number == errno.ECONNREFUSED:
        return MonitorError(
            f"nobody listens on the monitor {address}", "its QEMU has gone, or has not started"
        )
    if number in (errno.EACCES, errno.EPERM):
        return MonitorError(
            f"no permission to connect to the monitor {address}", "run qmr as QEMU's user or root"
        )
    if "path too long" in str(error):
        # Python finds this one itself, and gives it no number.
        return MonitorError(
            f"the monitor's path is too long for a unix socket: {address}",
            "reach it through a shorter symbolic link to its directory",
        )
    return MonitorError(
        f"cannot connect to the monitor {address}: {getattr(error, 'strerror', None) or error}",
        "check the address that was given",
    )


def _connect_unix(stream: socket.socket, path: str, timeout: float) -> None:
    # EAGAIN is a full backlog (unix(7)).  QEMU's holds one or two, and clients that gave
    # up stay in it until QEMU comes to them: right after a session this passes by itself.
    deadline = time.monotonic() + timeout
    while True:
        try:
            stream.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_BACKLOG_POLL)


def check_greeting(message: object, address: str) -> str:
    # The version out of QMP's greeting; MonitorError when it is no greeting.
    if not isinstance(message, Mapping) or not isinstance(message.get("QMP"), Mapping):
        raise garbled_error(address, json.dumps(message).encode())
    version = message["QMP"].get("version", {})
    number = version.get("qemu", {}) if isinstance(version, Mapping) else {}
    if not isinstance(number, Mapping) or "major" not in number:
        return ""
    return ".".join(str(number.get(part, 0)) for part in ("major", "minor", "micro"))


def busy_error(address: str, timeout: float, pid: int = 0) -> MonitorBusy:
    # A listener that does not greet: a stopped process is told apart from a busy one.
    if pid and _stopped(pid):
        return MonitorBusy(
            f"the monitor {address} does not answer: process {pid} is stopped",
            "let it run (continue in its debugger, or kill -CONT), then try again",
        )
    return MonitorBusy(
        f"the monitor {address} is held by another client (no greeting within {timeout:g} s)",
        "QEMU serves one client at a time: close the other one, or start QEMU with a second "
        "-qmp socket" + ("" if pid else "; if a debugger has stopped QEMU, let it run"),
    )


def peer_pid(stream: socket.socket) -> int:
    # The process that called listen(), see SO_PEERCRED in unix(7); 0 when unknown.
    if stream.family != socket.AF_UNIX:
        return 0
    try:
        packed = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return 0
    return int(struct.unpack("3i", packed)[0])


def _stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] in (b"t", b"T")
    except (OSError, IndexError):
        return False


def garbled_error(address: str, raw: bytes) -> MonitorLost:
    # What came is no QMP: say what it was, shortly.
    shown = raw[:60].decode("utf-8", "replace").strip()
    return MonitorLost(
        f"the monitor {address} does not speak QMP: it sent {shown!r}",
        "name a -qmp socket, not one of -monitor, -serial or -gdb",
    )


def lost_error(address: str, during: str = "") -> MonitorLost:
    # The other side closed the connection.
    where = f" during {during}" if during else ""
    return MonitorLost(
        f"the monitor {address} was closed by the other side{where}",
        "QEMU has died or quit; its own last message says why",
    )


def closed_error(address: str) -> MonitorLost:
    # We closed it ourselves.
    return MonitorLost(f"the monitor {address} is closed", "open it again")


def late_error(address: str, command: str, timeout: float) -> MonitorTimeout:
    # No answer, the connection stands.
    return MonitorTimeout(
        f"QEMU did not answer {command} within {timeout:g} s on the monitor {address}",
        "it hangs, or is stopped by a debugger",
    )


def reply_error(command: str, error: object) -> CommandError:
    # The error member of a QMP reply.
    members: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    return CommandError(
        command, str(members.get("class", "GenericError")), str(members.get("desc", error))
    )
