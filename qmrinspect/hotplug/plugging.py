"""Plug, and release
-----------------

Makes what stands behind a device, plugs it on a bus that takes it, and removes its
backends afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..errors import PeerMissing
from ..monitor.base import CommandError, Monitor
from .behind import Behind, create, remove
from .kinds import Recipe
from .leftovers import StillOwned, chains, leftovers

if TYPE_CHECKING:
    from ..peers import Peer

__all__ = [
    "Plugged",
    "now_us",
    "parse_devfn",
    "plug",
    "release",
]

_NO_HOTPLUG = "does not support hotplugging"

# Where QEMU keeps what is no device, by the bus of its recipe; the others are no objects.
_CONTAINERS = {"object": "/objects", "chardev": "/chardevs"}


class Plugged(NamedTuple):
    """What was plugged, a device mostly, or refused.  Times are in microseconds since 1970.

    :param plug_us: when ``device_add`` was sent, and ``plugged_us`` when it was answered; None
        for a device that somebody else plugged.
    :param path: its QOM path, None for what is no object.
    :param bus: the path of its parent bus, None where it has none.
    :param devfn: the PCI slot times 8 plus the function, None off PCI.
    :param backends: the names of what was made for it, in the order of the recipe's.
    :param peers: the programs and files behind those.
    :param avoided: PCI addresses that devices which leaked still own.
    """

    recipe: Recipe
    id: str
    path: str | None = None
    bus: str | None = None
    devfn: int | None = None
    plug_us: int | None = None
    plugged_us: int | None = None
    backends: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()
    avoided: tuple[str, ...] = ()

    @property
    def slot(self) -> int | None:
        """The PCI slot, None off PCI."""
        return None if self.devfn is None else self.devfn >> 3

    @property
    def took_us(self) -> int | None:
        """Microseconds that ``device_add`` took, None where somebody else sent it."""
        if self.plug_us is None or self.plugged_us is None:
            return None
        return self.plugged_us - self.plug_us

    def close(self) -> None:
        """End the programs behind the backends."""
        for peer in self.peers:
            peer.close()


def plug(
    monitor: Monitor,
    recipe: Recipe,
    id: str,
    avoid: Collection[int] = (),
    force: bool = False,
    refused: list[Plugged] | None = None,
) -> Plugged:
    """Plug a device, and what stands behind it, on the first bus that takes it.

    QEMU chooses bus and slot.  Where its choice cannot be hotplugged (pcie.0 of q35), the
    bridges and root ports that have an id and room are tried.  Where a device that leaked
    still owns a place on a PCI bus, the new one goes elsewhere.

    :param id: for the new device; backends are named after it.
    :param avoid: PCI slots not to use either.
    :param force: take no care of devices that leaked, and let QEMU abort.
    :param refused: gets what was made for a device that QEMU refused, for :func:`release`; without
        it nothing stays behind.
    :raises StillOwned: QEMU would abort; nothing was done.
    :raises CommandError: QEMU refused, with its own reason.
    :raises PeerMissing: this machine lacks what a backend needs; nothing stays behind.
    :raises MonitorLost: QEMU died of it.
    """
    owned = leftovers(monitor) if recipe.bus == "PCI" and not force else frozenset()
    slot = _slot(monitor, recipe, owned, avoid)
    place = _free_cpu(monitor, recipe.driver) if recipe.driver.endswith("-cpu") else {}
    behind = Behind(recipe, id)
    try:
        behind.make(monitor)
        plug_us = now_us()
        if recipe.non_device is not None:
            create(monitor, recipe.non_device, id, behind.names)
        else:
            named = {"driver": recipe.driver, "id": id, **behind.properties, **place}
            _device_add(monitor, recipe, named, slot, owned)
        plugged_us = now_us()
    except BaseException as error:
        left = Plugged(recipe, id, backends=tuple(behind.made), peers=tuple(behind.peers))
        if refused is not None and isinstance(error, CommandError):
            refused.append(left)
        elif isinstance(error, (CommandError, PeerMissing)):
            release(monitor, left)
        else:
            left.close()
        raise
    is_device = recipe.non_device is None
    home = "/machine/peripheral" if is_device else _CONTAINERS.get(recipe.bus or "")
    path = f"{home}/{id}" if home else None
    bus = devfn = None
    if path is not None and is_device:
        bus = monitor.qom_get(path, "parent_bus")
        devfn = monitor.qom_get(path, "addr") if recipe.bus == "PCI" else None
    return Plugged(
        recipe,
        id,
        path,
        bus if isinstance(bus, str) else None,
        parse_devfn(devfn),
        plug_us,
        plugged_us,
        tuple(behind.made),
        tuple(behind.peers),
        tuple(sorted(owned)),
    )


def _free_cpu(monitor: Monitor, driver: str) -> dict[str, object]:
    slots = monitor.execute("query-hotpluggable-cpus")
    for slot in reversed(slots if isinstance(slots, list) else []):
        if "qom-path" not in slot and slot.get("type") == driver:
            return dict(slot["props"])
    return {}


def _slot(
    monitor: Monitor, recipe: Recipe, owned: Collection[str], avoid: Collection[int]
) -> int | None:
    """Return the slot of the first PCI bus to use instead of QEMU's choice, None for that.

    :raises StillOwned: the recipe names a slot that is owned, or there is no other.
    """
    taken = {int(chain.split(":")[2].partition(".")[0], 16) for chain in owned if _is_root(chain)}
    asked = recipe.properties.get("addr")
    if asked is not None:
        devfn = parse_devfn(asked)
        slot = None if devfn is None else devfn >> 3
        if "bus" not in recipe.properties and slot in taken:
            raise StillOwned(
                f"a device that leaked still owns the RAM blocks of slot {slot}, and QEMU would "
                "abort",
                "plug it without addr=, or say --force",
            )
        return None
    if recipe.bus != "PCI" or "bus" in recipe.properties or not (taken or avoid):
        return None
    free = [slot for slot in _free_slots(monitor) if slot not in taken and slot not in avoid]
    if not free:
        raise StillOwned("every free slot is owned by a device that leaked", "restart the VM")
    return free[0]


def _is_root(chain: str) -> bool:
    return chain.startswith("0000:00:") and chain.count(":") == 2


def _device_add(
    monitor: Monitor,
    recipe: Recipe,
    arguments: Mapping[str, object],
    slot: int | None,
    owned: Collection[str],
) -> None:
    first_try = {**arguments, "addr": f"{slot:x}"} if slot is not None else arguments
    try:
        monitor.execute("device_add", first_try)
        return
    except CommandError as error:
        # A bus that somebody named is not for us to change.
        if recipe.bus != "PCI" or "bus" in arguments or _NO_HOTPLUG not in error.desc:
            raise
        first = error
    for bus in _free_bridges(monitor, owned):
        try:
            monitor.execute("device_add", {**arguments, "bus": bus})
            return
        except CommandError as error:
            if _NO_HOTPLUG not in error.desc:
                raise
    raise first


def _free_bridges(monitor: Monitor, owned: Collection[str]) -> list[str]:
    # A bus of a bridge that was given an id has that same id (pci_bridge_initfn()).
    found: list[str] = []
    buses = _pci(monitor)
    where = chains(buses)
    todo = [device for bus in buses for device in _devices(bus)]
    while todo:
        device = todo.pop(0)
        bridge = device.get("pci_bridge")
        if isinstance(bridge, dict):
            below = _devices(bridge)
            name = str(device.get("qdev_id") or "")
            if name and not below and not any(o.startswith(f"{where[name]}:") for o in owned):
                found.append(name)
            todo += below
    return found


def _free_slots(monitor: Monitor) -> list[int]:
    buses = _pci(monitor)
    used = {device.get("slot") for device in _devices(buses[0] if buses else None)}
    return [slot for slot in range(1, 32) if slot not in used]


def _pci(monitor: Monitor) -> list[object]:
    buses = monitor.execute("query-pci")
    return buses if isinstance(buses, list) else []


def _devices(bus: object) -> list[dict[str, object]]:
    devices = bus.get("devices", []) if isinstance(bus, dict) else []
    return [device for device in devices if isinstance(device, dict)]


# Release ---------------------------------------------------------------------------


def release(monitor: Monitor, plugged: Plugged) -> tuple[str, ...]:
    """Remove what was made for the device; return what QEMU did not release, and why.

    A device that leaks may hold its backends, so this comes after the memory was read.
    """
    try:
        return remove(monitor, plugged.recipe.backends, plugged.backends)
    finally:
        plugged.close()


# Small things ----------------------------------------------------------------------


def parse_devfn(text: object) -> int | None:
    """Return slot times 8 plus function, of "03.0" or of a number; None for what is neither."""
    if isinstance(text, int):
        return text
    slot, _, function = str(text).partition(".")
    try:
        return int(slot, 16) << 3 | int(function or "0", 16)
    except ValueError:
        return None


def now_us() -> int:
    """Return the time in microseconds since 1970."""
    return time.time_ns() // 1000
