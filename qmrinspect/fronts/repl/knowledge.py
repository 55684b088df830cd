"""What completion knows of a VM
-----------------------------

Asked over the monitor, which does not stop the VM, kept, and asked again when it may
have changed.  Without a monitor there is the last reading.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Callable, NamedTuple, TypeVar, cast

from ...errors import MonitorError
from ...monitor.arguments import Property, Schema, ask_properties, ask_schema
from ...monitor.base import Monitor
from ...monitor.qtree import Bus, parse_qtree

if TYPE_CHECKING:
    from .vm import Vm

__all__ = ["Bus", "Knowledge", "Node", "parse_qtree"]

T = TypeVar("T")

# Seconds that a question to QEMU may take while somebody waits for a completion.
_PATIENCE_S = 1.0
_FOREVER = float("inf")
# Devices come and go.
_SHORT_S = 1.0


class Node(NamedTuple):
    """A property of an object, by ``qom-list``."""

    name: str
    type: str

    @property
    def child(self) -> bool:
        """Whether it is an object below."""
        return self.type.startswith("child<")


def _rows(answer: object) -> list[dict[str, object]]:
    """Return the objects of a list that QEMU answered."""
    rows = answer if isinstance(answer, list) else []
    return [row for row in rows if isinstance(row, dict)]


class Knowledge:
    """What is known of one VM; may be asked by any thread.

    :param vm: gives the VM that the session is attached to, None when there is none.
    """

    def __init__(self, vm: Callable[[], Vm | None]) -> None:
        self._vm = vm
        self._kept: dict[tuple[int | None, str], tuple[float, object]] = {}
        self._asking = threading.RLock()

    def _ask(self, key: str, question: Callable[[Monitor], T], keep_s: float, none: T) -> T:
        """Return what is kept under a key, or ask; what cannot be asked is ``none``."""
        vm = self._vm()
        monitor = vm.connected() if vm is not None else None
        place = (vm.pid if vm is not None else None, key)
        until, kept = self._kept.get(place, (0.0, none))
        if monitor is None or time.monotonic() < until:
            return cast(T, kept)
        with self._asking:
            until, kept = self._kept.get(place, (0.0, none))
            if time.monotonic() >= until:
                # What was known is better than nothing.
                with contextlib.suppress(MonitorError, KeyError, TypeError, ValueError):
                    kept = question(monitor)
                self._kept[place] = (time.monotonic() + keep_s, kept)
        return cast(T, kept)

    def warm(self) -> None:
        """Ask for what is large, before anybody waits for it."""
        self.schema()
        self.drivers()

    def schema(self) -> Schema | None:
        """Return what the monitor understands, None when it cannot be asked."""

        def ask(monitor: Monitor) -> Schema | None:
            return ask_schema(monitor)

        return self._ask("schema", ask, _FOREVER, None)

    def known_schema(self) -> Schema | None:
        """Return the schema, None where it is not known yet; asks nothing."""
        vm = self._vm()
        kept = self._kept.get((vm.pid if vm is not None else None, "schema"))
        return cast("Schema | None", kept[1]) if kept else None

    def drivers(self) -> Sequence[str]:
        """Return the device types that can be plugged."""
        return self._types("device")

    def _types(self, above: str) -> Sequence[str]:
        def ask(monitor: Monitor) -> Sequence[str]:
            wanted = {"implements": above, "abstract": False}
            found = monitor.execute("qom-list-types", wanted, _PATIENCE_S)
            return sorted(str(row["name"]) for row in _rows(found))

        return self._ask(f"types {above}", ask, _FOREVER, ())

    def properties(self, driver: str) -> dict[str, Property]:
        """Return the properties of a device type or of an object type, by name."""

        def ask(monitor: Monitor) -> dict[str, Property]:
            return ask_properties(monitor, driver, driver in self.drivers(), _PATIENCE_S)

        return self._ask(f"properties {driver}", ask, _FOREVER, {})

    def nodes(self, path: str) -> Sequence[Node]:
        """Return the properties of the object at a path, its children among them."""

        def ask(monitor: Monitor) -> Sequence[Node]:
            rows = monitor.execute("qom-list", {"path": path or "/"}, _PATIENCE_S)
            return [Node(str(row["name"]), str(row["type"])) for row in _rows(rows)]

        return self._ask(f"nodes {path}", ask, _SHORT_S, self._read_nodes(path))

    def _read_nodes(self, path: str) -> Sequence[Node]:
        vm = self._vm()
        index = vm.last_index if vm is not None else None
        if index is None:
            return ()
        at = index.root
        for part in [part for part in path.split("/") if part]:
            below = {prop.name: prop.target for prop in index.children.get(at, ())}
            if part not in below:
                return ()
            at = below[part]
        return [Node(prop.name, "child<>") for prop in index.children.get(at, ())]

    def ids(self) -> Sequence[str]:
        """Return the ids of the devices that are plugged."""
        vm = self._vm()
        names = {node.name for node in self.nodes("/machine/peripheral") if node.child}
        index = vm.last_index if vm is not None else None
        if not names and index is not None:
            devices = index.snapshot.devices.values()
            names = {d.id for d in devices if d.id and index.in_tree(d.address)}
        return sorted(names)

    def buses(self, driver: str | None) -> Sequence[str]:
        """Return the buses that have room for a device; all with room where it is not known."""

        def ask(monitor: Monitor) -> Sequence[Bus]:
            return parse_qtree(monitor.hmp("info qtree", _PATIENCE_S))

        def ask_types(monitor: Monitor) -> dict[str, str]:
            text = monitor.hmp("info qdm", _PATIENCE_S)
            return dict(re.findall(r'^name "([^"]+)", bus ([^,\r\n]+)', text, re.M))

        kinds: dict[str, str] = self._ask("qdm", ask_types, _FOREVER, {})
        found: Sequence[Bus] = self._ask("qtree", ask, _SHORT_S, ())
        wanted = kinds.get(driver) if driver is not None else None
        # QEMU names a conventional PCI bus PCI and an express one PCIE; both take both.
        family = "PCI" if wanted and wanted.startswith("PCI") else wanted

        def fits(bus: Bus) -> bool:
            if family is None:
                return bus.type != "System"
            return bus.type is not None and bus.type.startswith(family)

        return sorted(bus.name for bus in found if not bus.full and fits(bus))

    def named(self, command: str, key: str) -> Sequence[str]:
        """Return the names that a query command lists under a key: block nodes, chardevs."""

        def ask(monitor: Monitor) -> Sequence[str]:
            rows = monitor.execute(command, None, _PATIENCE_S)
            return sorted({str(row[key]) for row in _rows(rows) if row.get(key)})

        return self._ask(f"{command} {key}", ask, _SHORT_S, ())

    def hmp(self, prefix: str) -> Sequence[str]:
        """Return the words that a line of the human monitor may go on with.

        :param prefix: the words before: ``""`` or ``"info"``.
        """

        def ask(monitor: Monitor) -> Sequence[str]:
            lines = monitor.hmp(f"help {prefix}".rstrip(), _PATIENCE_S).splitlines()
            lead = f"{prefix} " if prefix else ""
            return _hmp_words(line[len(lead) :] for line in lines if line.startswith(lead))

        if prefix not in ("", "info"):
            return ()
        return self._ask(f"hmp {prefix}", ask, _FOREVER, ())


def _hmp_words(lines: Iterable[str]) -> Sequence[str]:
    words: set[str] = set()
    for line in lines:
        match = re.match(r"[A-Za-z][\w|-]*", line)
        if match:
            words.update(match.group(0).split("|"))
    return sorted(words)
