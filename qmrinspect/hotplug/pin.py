"""Holding a device by a link
--------------------------

A settable strong link of another object that points to a device keeps it from being
finalized: it is unplugged, unrealized and unparented, and all that unrealize left can be read.
A console's ``device`` (ui/console.c) is such a link in every QEMU; others are found by their
type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..monitor.base import CommandError, Monitor

__all__ = ["Pin", "links", "release_pin", "set_pin"]

_TYPES = ("link<device>", "link<object>")


class Pin(NamedTuple):
    """A link that was made to point to a device: where it is, and where it pointed before."""

    path: str
    property: str
    old: str


def links(monitor: Monitor, objects: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the path and the property of each link that may be made to point to a device.

    Whether QEMU lets it be set, and whether it then counts, a trial shows.

    :param objects: path and type of objects that stay.
    """
    for path, _ in sorted(objects, key=lambda item: "console" not in item[1]):
        try:
            found = monitor.execute("qom-list", {"path": path})
        except CommandError:
            continue
        for item in found if isinstance(found, list) else ():
            if item.get("type") in _TYPES:
                yield path, str(item["name"])


def set_pin(monitor: Monitor, path: str, name: str, device: str) -> Pin | None:
    """Make a link point to a device.

    :param device: its QOM path.
    :return: None where QEMU does not let it.
    """
    where = {"path": path, "property": name}
    try:
        old = str(monitor.execute("qom-get", where))
        monitor.execute("qom-set", {**where, "value": device})
    except CommandError:
        return None
    return Pin(path, name, old)


def release_pin(monitor: Monitor, pin: Pin) -> None:
    """Make a link point where it pointed before; what only it held is finalized now.

    :raises MonitorLost: QEMU died of it.
    """
    where = {"path": pin.path, "property": pin.property}
    try:
        monitor.execute("qom-set", {**where, "value": pin.old})
    except CommandError:
        # Where it pointed has gone meanwhile.
        monitor.execute("qom-set", {**where, "value": ""})
