"""What can be hunted
------------------

The candidates come from the QEMU itself: its devices with their buses, the CPUs that
its machine takes, and the types of objects, chardevs, netdevs and block nodes.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..errors import UsageError
from ..hotplug.kinds import Driver
from ..hotplug.unplug import drivers
from ..monitor.base import CommandError, Monitor
from ..text import printable

__all__ = ["Candidates", "candidates", "expanded", "fitting", "is_pattern", "no_device"]


class Candidates(NamedTuple):
    """What this QEMU has.

    :param names: drivers, and ``KIND:TYPE`` for what is no device.
    :param known: the drivers by name and alias.
    :param models: CPU models that only a VM started with that model takes.
    """

    names: list[str]
    known: Mapping[str, Driver]
    models: list[str]


def candidates(monitor: Monitor) -> Candidates:
    """Ask QEMU what can be plugged.

    Whether it marks a device hotpluggable it says only when it is asked to plug it.

    :raises MonitorError: it does not answer.
    """
    known = drivers(monitor)
    devices = sorted({d.name for d in known.values() if d.user_creatable})
    cpus = {name for name in devices if name.endswith("-cpu")}
    taken = _cpus(monitor)
    names = [name for name in devices if name not in cpus or name in taken]
    names += [f"object:{name}" for name in _objects(monitor)]
    names += [f"chardev:{name}" for name in _chardevs(monitor)]
    schema = _schema(monitor)
    names += [f"netdev:{name}" for name in _values(schema, "netdev_add", "type", ("nic", "none"))]
    names += [f"block:{name}" for name in _values(schema, "blockdev-add", "driver")]
    return Candidates(names, known, sorted(cpus - taken))


def expanded(monitor: Monitor, names: Sequence[str]) -> tuple[list[str], Mapping[str, Driver]]:
    """Return the devices that names and patterns mean, each once, and all drivers.

    :raises UsageError: this QEMU has no such device.
    """
    plain = not any(":" in name or is_pattern(name) for name in names)
    known = drivers(monitor)
    hunted = sorted(known) if plain else candidates(monitor).names
    return fitting(names, hunted, known), known


def is_pattern(name: str) -> bool:
    """Whether a name is a pattern, as a shell has them."""
    return any(char in name for char in "*?[")


def fitting(names: Sequence[str], hunted: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the devices that names and patterns mean, each once.

    :param hunted: what patterns may mean.
    :param known: what else may be named.
    :raises UsageError: there is no such device; the hint has near ones.
    """
    found: dict[str, None] = {}
    for name in names:
        fits = fnmatch.filter(hunted, name) if is_pattern(name) else [name]
        if not fits:
            raise UsageError(
                f"no device of this QEMU fits the pattern {printable(name)}",
                "qmr hmp 'info qdm' lists them",
            )
        for fit in fits:
            if fit not in known and fit not in hunted:
                raise no_device(fit, {*hunted, *known})
            found[fit] = None
    return list(found)


def no_device(name: str, known: Iterable[str]) -> UsageError:
    """Return the failure to find a device; its hint names near ones."""
    near = difflib.get_close_matches(name, sorted(known), 3, 0.6)
    return UsageError(
        f"this QEMU has no device {printable(name)}",
        "did you mean " + " or ".join(near) + "?" if near else "qmr hmp 'info qdm' lists them",
    )


def _cpus(monitor: Monitor) -> set[str]:
    try:
        slots = monitor.execute("query-hotpluggable-cpus")
    except CommandError:
        return set()  # this machine has none
    return {str(slot["type"]) for slot in slots} if isinstance(slots, list) else set()


def _objects(monitor: Monitor) -> Iterable[str]:
    found = monitor.execute("qom-list-types", {"implements": "user-creatable", "abstract": False})
    return sorted(str(item["name"]) for item in found) if isinstance(found, list) else ()


def _chardevs(monitor: Monitor) -> Iterable[str]:
    found = monitor.execute("query-chardev-backends")
    return sorted(str(item["name"]) for item in found) if isinstance(found, list) else ()


def _schema(monitor: Monitor) -> dict[str, Mapping[str, object]]:
    found = monitor.execute("query-qmp-schema")
    return {str(item["name"]): item for item in found} if isinstance(found, list) else {}


def _values(
    schema: Mapping[str, Mapping[str, object]], command: str, tag: str, without: Iterable[str] = ()
) -> list[str]:
    """Return the values that the tag of a command's union argument takes."""
    argument = schema.get(str(schema.get(command, {}).get("arg-type")), {})
    members = argument.get("members")
    for member in members if isinstance(members, list) else []:
        if member.get("name") == tag:
            values = schema.get(str(member.get("type")), {}).get("values")
            return sorted(set(values if isinstance(values, list) else []) - set(without))
    return []
