"""One plug and one unplug
-----------------------

Plugs a device, takes it out again, and plays the guest's part in between.

Each step is a function over plain data, so that a front can let the VM run for a step and
read its memory between two.  Nothing here judges: ``DEVICE_DELETED`` is sent by
``device_finalize()`` (hw/core/qdev.c), so its absence is a symptom, and the object in
memory is the proof.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple, TypeVar, cast

from ..errors import MonitorError
from .monitor import CommandError, Event, Monitor, MonitorLost, MonitorTimeout
from .recipes import Backend, Driver, Recipe, parse_qdm

__all__ = [
    "EVENT_TIMEOUT",
    "Acknowledged",
    "Cycle",
    "Plugged",
    "acknowledge",
    "drivers",
    "plug",
    "release",
    "request_unplug",
    "run_cycle",
    "unparented",
    "unplug",
    "wait_deleted",
]

#: Seconds to wait for ``DEVICE_DELETED``: RCU's grace period takes 10 to 100 ms.
EVENT_TIMEOUT = 0.5

#: Seconds that one command of a cycle may take; more is a hang.
STEP_TIMEOUT = 10.0

# Of the ACPI PCI hotplug registers (docs/specs/acpi_pci_hotplug): both are 32 bits wide.
_EJECT = 0x08
_SELECT = 0x10

_NO_HOTPLUG = "does not support hotplugging"

T = TypeVar("T")


class Plugged(NamedTuple):
    """A device that was plugged.

    ``path`` is its QOM path, ``bus`` that of its parent bus, "" for none.  ``devfn`` is the
    PCI slot times 8 plus the function, -1 off PCI.  Times are in microseconds since 1970.
    ``backends`` are the names of what was made for it, in the order of the recipe's.
    """

    recipe: Recipe
    id: str
    path: str
    bus: str
    devfn: int
    plug_us: int
    plugged_us: int
    backends: tuple[str, ...]

    @property
    def slot(self) -> int:
        """The PCI slot, -1 off PCI."""
        return self.devfn >> 3 if self.devfn >= 0 else -1


class Acknowledged(NamedTuple):
    """How an unplug was acknowledged, and when (microseconds since 1970).

    ``how`` is ``acpi`` (the eject register was written), ``reset`` (system_reset), ``sync``
    (device_del alone did it) or ``guest`` (left to a guest that runs).
    """

    how: str
    time_us: int


class Cycle(NamedTuple):
    """What was seen of one plug and unplug; times in microseconds since 1970, 0 for never.

    ``event`` says whether ``DEVICE_DELETED`` came, ``unparented`` whether the device has
    left ``/machine/peripheral``.  ``refused`` and ``crash`` are texts, "" when it did not
    happen; ``step`` is the step that was refused, hung or crashed.  ``kept`` names the
    backends that QEMU would not give back, with its reasons.
    """

    driver: str
    id: str
    path: str = ""
    bus: str = ""
    slot: int = -1
    plug_us: int = 0
    plugged_us: int = 0
    request_us: int = 0
    acknowledge: str = ""
    acknowledge_us: int = 0
    event: bool = False
    event_us: int = 0
    unparented: bool = False
    step: str = ""
    refused: str = ""
    crash: str = ""
    hang: str = ""
    kept: tuple[str, ...] = ()


def drivers(monitor: Monitor) -> dict[str, Driver]:
    """Ask QEMU which devices it has; about 10 ms.

    :raises MonitorError: it does not answer.
    """
    return parse_qdm(monitor.hmp("info qdm"))


# Plug ------------------------------------------------------------------------------


def plug(monitor: Monitor, recipe: Recipe, id: str) -> Plugged:
    """Plug a device, and what stands behind it, on the first bus that takes it.

    QEMU chooses bus and slot.  Where its choice cannot be hotplugged (pcie.0 of q35), the
    bridges and root ports that have an id and room are tried.

    :param id: for the new device; backends are named after it.
    :raises CommandError: QEMU refused, with its own reason; nothing stays behind.
    :raises MonitorLost: QEMU died of it.
    """
    made: list[str] = []
    plug_us = _now_us()
    try:
        properties: dict[str, object] = {
            key: _named(value, id) for key, value in recipe.properties.items()
        }
        for backend in recipe.backends:
            name = str(_named(backend.name, id))
            arguments = {key: _named(value, id) for key, value in backend.arguments.items()}
            arguments[backend.delete_key] = name
            monitor.execute(backend.create, arguments, STEP_TIMEOUT)
            made.append(name)
            if backend.property:
                properties[backend.property] = name
        plug_us = _now_us()
        _device_add(monitor, recipe, {"driver": recipe.driver, "id": id, **properties})
        plugged_us = _now_us()
    except CommandError:
        _remove(monitor, recipe.backends, made)
        raise
    path = f"/machine/peripheral/{id}"
    bus = _get(monitor, path, "parent_bus")
    devfn = _get(monitor, path, "addr") if recipe.bus == "PCI" else None
    return Plugged(
        recipe,
        id,
        path,
        bus if isinstance(bus, str) else "",
        # A string in QEMUs that print it ("03.0"), a number in the others.
        devfn if isinstance(devfn, int) else _devfn(devfn),
        plug_us,
        plugged_us,
        tuple(made),
    )


def _device_add(monitor: Monitor, recipe: Recipe, arguments: Mapping[str, object]) -> None:
    try:
        monitor.execute("device_add", arguments, STEP_TIMEOUT)
        return
    except CommandError as error:
        if recipe.bus != "PCI" or _NO_HOTPLUG not in error.desc:
            raise
        first = error
    for bus in _free_bridges(monitor):
        try:
            monitor.execute("device_add", {**arguments, "bus": bus}, STEP_TIMEOUT)
            return
        except CommandError as error:
            if _NO_HOTPLUG not in error.desc:
                raise
    raise first


def _free_bridges(monitor: Monitor) -> list[str]:
    # A bus of a bridge that was given an id has that same id (pci_bridge_initfn()).
    found: list[str] = []
    todo = [device for bus in _pci(monitor) for device in _devices(bus)]
    while todo:
        device = todo.pop(0)
        bridge = device.get("pci_bridge")
        if isinstance(bridge, dict):
            below = _devices(bridge)
            if device.get("qdev_id") and not below:
                found.append(str(device["qdev_id"]))
            todo += below
    return found


def _pci(monitor: Monitor) -> list[object]:
    buses = monitor.execute("query-pci", timeout=STEP_TIMEOUT)
    return buses if isinstance(buses, list) else []


def _devices(bus: object) -> list[dict[str, object]]:
    devices = bus.get("devices", []) if isinstance(bus, dict) else []
    return [device for device in devices if isinstance(device, dict)]


# Unplug ----------------------------------------------------------------------------


def request_unplug(monitor: Monitor, id: str) -> int:
    """Send ``device_del`` and return when that was, in microseconds since 1970.

    :raises CommandError: QEMU refused.
    :raises MonitorLost: QEMU died of it.
    """
    now = _now_us()
    monitor.execute("device_del", {"id": id}, STEP_TIMEOUT)
    return now


def unparented(monitor: Monitor, id: str) -> bool:
    """Say whether ``/machine/peripheral`` no longer has a child of this id."""
    children = monitor.execute("qom-list", {"path": "/machine/peripheral"}, STEP_TIMEOUT)
    if not isinstance(children, list):
        return False
    return not any(isinstance(child, dict) and child.get("name") == id for child in children)


def acknowledge(monitor: Monitor, plugged: Plugged) -> Acknowledged:
    """Do what the guest would do about a requested unplug.

    Where the bus has ACPI hotplug (pc, and the root ports of q35), its eject register is
    written: the bus is selected by its number (``bsel``), then the slot's bit is set
    (``pci_write()``, hw/acpi/pcihp.c).  USB, SCSI and the like are gone already.  What is
    left needs ``system_reset``, and gets it in a VM whose CPUs do not run.

    :raises CommandError: QEMU refused.
    :raises MonitorLost: QEMU died of it.
    """
    if plugged.devfn < 0 or unparented(monitor, plugged.id):
        return Acknowledged("sync", _now_us())
    handler = _get(monitor, plugged.bus, "hotplug-handler")
    bsel = _get(monitor, plugged.bus, "acpi-pcihp-bsel")
    base = _get(monitor, handler, "acpi-pcihp-io-base") if isinstance(handler, str) else None
    if isinstance(bsel, int) and isinstance(base, int):
        _write_port(monitor, base + _SELECT, bsel)
        now = _now_us()
        _write_port(monitor, base + _EJECT, 1 << plugged.slot)
        return Acknowledged("acpi", now)
    status = monitor.execute("query-status", timeout=STEP_TIMEOUT)
    now = _now_us()
    if isinstance(status, dict) and status.get("running"):
        return Acknowledged("guest", now)
    monitor.execute("system_reset", timeout=STEP_TIMEOUT)
    return Acknowledged("reset", now)


def wait_deleted(
    monitor: Monitor, plugged: Plugged, timeout: float = EVENT_TIMEOUT
) -> Event | None:
    """Wait for the device's own ``DEVICE_DELETED``, for ``timeout`` seconds at most.

    :raises MonitorLost: QEMU died meanwhile.
    """

    def ours(event: Event) -> bool:
        return event.name == "DEVICE_DELETED" and event.data.get("path") == plugged.path

    return monitor.wait_event(ours, timeout)


def release(monitor: Monitor, plugged: Plugged) -> tuple[str, ...]:
    """Remove what was made for the device; return what QEMU would not give back, and why.

    A device that leaks may hold its backends, so this comes after the memory was read.
    """
    return _remove(monitor, plugged.recipe.backends, list(plugged.backends))


def unplug(monitor: Monitor, plugged: Plugged, timeout: float = EVENT_TIMEOUT) -> Cycle:
    """Unplug, acknowledge, and wait for the event: the second half of a cycle.

    A refusal, a hang and a crash are results here.  The backends stay: see :func:`release`.

    :param timeout: seconds to wait for ``DEVICE_DELETED``.
    """
    cycle = Cycle(
        driver=plugged.recipe.driver,
        id=plugged.id,
        path=plugged.path,
        bus=plugged.bus,
        slot=plugged.slot,
        plug_us=plugged.plug_us,
        plugged_us=plugged.plugged_us,
    )
    step = "device_del"
    try:
        # The reply may never come, and the time counts all the same.
        cycle = cycle._replace(request_us=_now_us())
        cycle = cycle._replace(request_us=request_unplug(monitor, plugged.id))
        step = "acknowledge"
        cycle = cycle._replace(acknowledge_us=_now_us())
        how, time_us = acknowledge(monitor, plugged)
        cycle = cycle._replace(acknowledge=how, acknowledge_us=time_us)
        step = "wait"
        event = wait_deleted(monitor, plugged, timeout)
        cycle = cycle._replace(
            event=event is not None, event_us=event.timestamp_us if event is not None else 0
        )
        return cycle._replace(unparented=unparented(monitor, plugged.id))
    except MonitorError as error:
        return _ended(cycle, step, error)


def run_cycle(monitor: Monitor, recipe: Recipe, id: str, timeout: float = EVENT_TIMEOUT) -> Cycle:
    """Plug, unplug and release in one go; every failure of QEMU is in the result."""
    try:
        plugged = plug(monitor, recipe, id)
    except MonitorError as error:
        return _ended(Cycle(recipe.driver, id), "device_add", error)
    cycle = unplug(monitor, plugged, timeout)
    if cycle.crash or cycle.hang:
        return cycle
    try:
        return cycle._replace(kept=release(monitor, plugged))
    except MonitorError as error:
        return _ended(cycle, "release", error)


def _ended(cycle: Cycle, step: str, error: MonitorError) -> Cycle:
    if isinstance(error, CommandError):
        return cycle._replace(step=step, refused=error.desc)
    if isinstance(error, MonitorTimeout):
        return cycle._replace(step=step, hang=error.text)
    if isinstance(error, MonitorLost):
        return cycle._replace(step=step, crash=error.text)
    raise error


# Small things ----------------------------------------------------------------------


def _remove(monitor: Monitor, backends: tuple[Backend, ...], names: list[str]) -> tuple[str, ...]:
    kept = []
    for backend, name in reversed(list(zip(backends, names))):
        try:
            monitor.execute(backend.delete, {backend.delete_key: name}, STEP_TIMEOUT)
        except CommandError as error:
            # A device may take its backend along: usb-redir deletes its chardev.
            if not error.desc.endswith("not found"):
                kept.append(f"{name}: {error.desc}")
    return tuple(kept)


def _named(value: T, id: str) -> T:
    # "{id}" stands for the device's id, at any depth.
    if isinstance(value, str):
        return cast(T, value.replace("{id}", id))
    if isinstance(value, dict):
        return cast(T, {key: _named(item, id) for key, item in value.items()})
    return value


def _get(monitor: Monitor, path: str, name: str) -> object:
    # A QOM property, or None where there is none of this name.
    try:
        return monitor.execute("qom-get", {"path": path, "property": name}, STEP_TIMEOUT)
    except CommandError:
        return None


def _devfn(text: object) -> int:
    slot, _, function = str(text).partition(".")
    try:
        return int(slot, 16) << 3 | int(function or "0", 16)
    except ValueError:
        return -1


def _write_port(monitor: Monitor, port: int, value: int) -> None:
    # HMP "o/w" writes 32 bits to an I/O port (hmp_ioport_write()), and prints only errors.
    said = monitor.hmp(f"o/w {port:#x} {value:#x}", STEP_TIMEOUT).strip()
    if said:
        raise CommandError("o/w", "GenericError", said)


def _now_us() -> int:
    return time.time_ns() // 1000
