"""One unplug
----------

Takes a device out again, and plays the guest's part in between.

Each step is a function over plain data, so that a front can let the VM run for a step and
read its memory between two.  Nothing here judges: ``DEVICE_DELETED`` is sent by
``device_finalize()`` (hw/core/qdev.c), so its absence is a symptom, and the object in
memory is the proof.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import MonitorError
from .kinds import Driver, Recipe
from .monitor import CommandError, Event, Monitor, MonitorLost, MonitorTimeout
from .places import PlaceMissing
from .plugging import STEP_TIMEOUT, Plugged, get_property, now_us, plug, release
from .recipes import parse_qdm

__all__ = [
    "EVENT_TIMEOUT",
    "Acknowledged",
    "Cycle",
    "Plugged",
    "acknowledge",
    "drivers",
    "force_topology",
    "late_event",
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

# How often a guest is looked at that has to let a device go, in seconds.
_GUEST_POLL = 0.02

# Of the ACPI PCI hotplug registers (docs/specs/acpi_pci_hotplug): both are 32 bits wide.
_EJECT = 0x08
_SELECT = 0x10

# Of the CPU and memory hotplug registers (docs/specs/acpi_cpu_hotplug, acpi_mem_hotplug):
# a selector of 32 bits at 0, control flags of 8 bits with "eject" as bit 3.
_CPU_FLAGS, _MEMORY_FLAGS = 0x04, 0x14
_EJECT_BIT = 1 << 3


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
    left ``/machine/peripheral``, with the time when that was seen.  ``refused`` and
    ``crash`` are texts, "" when it did not happen; ``step`` is the step that was refused,
    hung or crashed, ``prepare`` when this machine lacks what a backend needs.  ``kept``
    names the backends that QEMU would not give back, with its reasons.
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
    unparented_us: int = 0


def drivers(monitor: Monitor) -> dict[str, Driver]:
    """Ask QEMU which devices it has; about 10 ms.

    :raises MonitorError: it does not answer.
    """
    return parse_qdm(monitor.hmp("info qdm"))


def request_unplug(monitor: Monitor, id: str) -> int:
    """Send ``device_del`` and return when that was, in microseconds since 1970.

    :raises CommandError: QEMU refused.
    :raises MonitorLost: QEMU died of it.
    """
    now = now_us()
    monitor.execute("device_del", {"id": id}, STEP_TIMEOUT)
    return now


def unparented(monitor: Monitor, id: str) -> bool:
    """Say whether ``/machine/peripheral`` no longer has a child of this id."""
    children = monitor.execute("qom-list", {"path": "/machine/peripheral"}, STEP_TIMEOUT)
    if not isinstance(children, list):
        return False
    return not any(isinstance(child, dict) and child.get("name") == id for child in children)


# The guest's part ------------------------------------------------------------------


def acknowledge(monitor: Monitor, plugged: Plugged, timeout: float = 0.0) -> Acknowledged:
    """Do what the guest would do about a requested unplug.

    Where the bus has ACPI hotplug (pc, and the root ports of q35), its eject register is
    written: the bus is selected by its number (``bsel``), then the slot's bit is set
    (``pci_write()``, hw/acpi/pcihp.c).  CPUs and DIMMs have registers of the same sort.
    USB, SCSI and the like are gone already.  What is left needs ``system_reset``, and gets
    it in a VM whose CPUs do not run.

    :param timeout: seconds that a guest which runs has to do it itself.
    :raises CommandError: QEMU refused.
    :raises MonitorLost: QEMU died of it.
    """
    if unparented(monitor, plugged.id):
        return Acknowledged("sync", now_us())
    if timeout:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            # Events gather meanwhile; none is taken.
            monitor.wait_event(lambda event: False, _GUEST_POLL)
            if unparented(monitor, plugged.id):
                return Acknowledged("guest", now_us())
    if plugged.recipe.driver.endswith("-cpu"):
        return _eject(monitor, "acpi-cpu-hotplug", _cpu_index(monitor, plugged), _CPU_FLAGS)
    if plugged.recipe.driver in ("pc-dimm", "nvdimm"):
        return _eject(monitor, "acpi-mem-hotplug", _memory_slot(monitor, plugged), _MEMORY_FLAGS)
    if plugged.devfn < 0:
        return Acknowledged("sync", now_us())
    handler = get_property(monitor, plugged.bus, "hotplug-handler")
    bsel = get_property(monitor, plugged.bus, "acpi-pcihp-bsel")
    base = get_property(monitor, handler, "acpi-pcihp-io-base") if isinstance(handler, str) else 0
    if isinstance(bsel, int) and isinstance(base, int) and base:
        _write_port(monitor, base + _SELECT, bsel)
        now = now_us()
        try:
            _write_port(monitor, base + _EJECT, 1 << plugged.slot)
        except CommandError:
            # A device may complain as it goes, as x-pci-proxy-dev does: it closes its socket
            # before its memory listener is gone (pci_proxy_dev_exit(), hw/remote/proxy.c).
            if not unparented(monitor, plugged.id):
                raise
        return Acknowledged("acpi", now)
    status = monitor.execute("query-status", timeout=STEP_TIMEOUT)
    now = now_us()
    if isinstance(status, dict) and status.get("running"):
        return Acknowledged("guest", now)
    monitor.execute("system_reset", timeout=STEP_TIMEOUT)
    return Acknowledged("reset", now)


def prepare(monitor: Monitor, recipe: Recipe) -> None:
    """Do what the guest's firmware would do before a device of this sort can be unplugged.

    The CPU hotplug block starts in a mode that knows no unplug; a zero at its base
    switches it (docs/specs/acpi_cpu_hotplug).
    """
    if recipe.driver.endswith("-cpu"):
        base = _registers(monitor, "acpi-cpu-hotplug")
        if base:
            _write_port(monitor, base, 0)


def _eject(monitor: Monitor, registers: str, index: int, flags: int) -> Acknowledged:
    base = _registers(monitor, registers)
    if not base or index < 0:
        return Acknowledged("sync", now_us())
    _write_port(monitor, base, index)
    now = now_us()
    _write_port(monitor, base + flags, _EJECT_BIT, "b")
    return Acknowledged("acpi", now)


# "    000000000000af00-000000000000af1f (prio 0, i/o): acpi-cpu-hotplug"
_REGION = r"^ *([0-9a-f]{16})-[0-9a-f]{16} \([^)]*\): %s(?:-legacy)?\s*$"


def _registers(monitor: Monitor, name: str) -> int:
    found = re.search(_REGION % re.escape(name), monitor.hmp("info mtree", STEP_TIMEOUT), re.M)
    return int(found[1], 16) if found else 0


def _cpu_index(monitor: Monitor, plugged: Plugged) -> int:
    cpus = monitor.execute("query-cpus-fast", timeout=STEP_TIMEOUT)
    for cpu in cpus if isinstance(cpus, list) else []:
        if cpu.get("qom-path") == plugged.path:
            return int(cpu["cpu-index"])
    return -1


def _memory_slot(monitor: Monitor, plugged: Plugged) -> int:
    devices = monitor.execute("query-memory-devices", timeout=STEP_TIMEOUT)
    for device in devices if isinstance(devices, list) else []:
        if device.get("data", {}).get("id") == plugged.id:
            return int(device["data"]["slot"])
    return -1


def _write_port(monitor: Monitor, port: int, value: int, size: str = "w") -> None:
    # HMP "o/w" writes 32 bits to an I/O port, "o/b" 8 (hmp_ioport_write()); it prints
    # only errors.
    said = monitor.hmp(f"o/{size} {port:#x} {value:#x}", STEP_TIMEOUT).strip()
    if said:
        raise CommandError("o", "GenericError", said)


def force_topology(monitor: Monitor) -> bool:
    """Make QEMU render its flat views anew, which lets go of those that only a cache holds.

    Dirty logging that begins is a topology change (``memory_global_dirty_log_start()``,
    softmmu/memory.c), and harms no guest.

    :return: whether QEMU could be made to.
    """
    arguments: Mapping[str, object] = {"calc-time": 1, "mode": "dirty-bitmap"}
    try:
        monitor.execute("calc-dirty-rate", arguments, STEP_TIMEOUT)
    except CommandError:
        return False
    return True


# The unplug as a whole -------------------------------------------------------------


def wait_deleted(
    monitor: Monitor, plugged: Plugged, timeout: float = EVENT_TIMEOUT
) -> Event | None:
    """Wait for the device's own ``DEVICE_DELETED``, for ``timeout`` seconds at most.

    :raises MonitorLost: QEMU died meanwhile.
    """

    def ours(event: Event) -> bool:
        return event.name == "DEVICE_DELETED" and event.data.get("path") == plugged.path

    return monitor.wait_event(ours, timeout)


def late_event(monitor: Monitor, plugged: Plugged, cycle: Cycle, timeout: float = 0.0) -> Cycle:
    """Note a ``DEVICE_DELETED`` that has come, or comes within ``timeout`` seconds.

    :raises MonitorLost: QEMU died meanwhile.
    """
    event = None if cycle.event else wait_deleted(monitor, plugged, timeout)
    return cycle if event is None else cycle._replace(event=True, event_us=event.timestamp_us)


def unplug(
    monitor: Monitor,
    plugged: Plugged,
    timeout: float = EVENT_TIMEOUT,
    guest: float = 0.0,
) -> Cycle:
    """Unplug, acknowledge, and wait for the event: the second half of a cycle.

    A refusal, a hang and a crash are results here.  The backends stay: see :func:`release`.

    :param timeout: seconds to wait for ``DEVICE_DELETED``.
    :param guest: seconds that the guest has to let the device go.
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
        cycle = cycle._replace(request_us=now_us())
        if plugged.recipe.subject is not None:
            return _delete(monitor, plugged, cycle)
        prepare(monitor, plugged.recipe)
        cycle = cycle._replace(request_us=request_unplug(monitor, plugged.id))
        step = "acknowledge"
        cycle = cycle._replace(acknowledge_us=now_us())
        how, time_us = acknowledge(monitor, plugged, guest)
        cycle = cycle._replace(acknowledge=how, acknowledge_us=time_us)
        step = "wait"
        gone = unparented(monitor, plugged.id)
        cycle = cycle._replace(unparented=gone, unparented_us=now_us() if gone else 0)
        cycle = late_event(monitor, plugged, cycle, timeout)
        if gone:
            return cycle
        gone = unparented(monitor, plugged.id)
        return cycle._replace(unparented=gone, unparented_us=now_us() if gone else 0)
    except MonitorError as error:
        return ended(cycle, step, error)


def _delete(monitor: Monitor, plugged: Plugged, cycle: Cycle) -> Cycle:
    # What is no device goes at once, or is refused.
    subject = plugged.recipe.subject
    assert subject is not None
    monitor.execute(subject.delete, {subject.delete_key: plugged.id}, STEP_TIMEOUT)
    now = now_us()
    return cycle._replace(
        acknowledge="sync", acknowledge_us=now, unparented=True, unparented_us=now
    )


def run_cycle(monitor: Monitor, recipe: Recipe, id: str, timeout: float = EVENT_TIMEOUT) -> Cycle:
    """Plug, unplug and release in one go; every failure of QEMU is in the result."""
    try:
        plugged = plug(monitor, recipe, id)
    except (MonitorError, PlaceMissing) as error:
        return ended(Cycle(recipe.driver, id), "device_add", error)
    cycle = unplug(monitor, plugged, timeout)
    try:
        if cycle.crash or cycle.hang:
            return cycle
        return cycle._replace(kept=release(monitor, plugged))
    except MonitorError as error:
        return ended(cycle, "release", error)
    finally:
        for place in plugged.places:
            place.close()


def ended(cycle: Cycle, step: str, error: MonitorError | PlaceMissing) -> Cycle:
    """Put into a cycle how QEMU ended it, or that it could not be begun; the rest is raised."""
    if isinstance(error, PlaceMissing):
        return cycle._replace(step="prepare", refused=error.text)
    if isinstance(error, CommandError):
        return cycle._replace(step=step, refused=error.desc)
    if isinstance(error, MonitorTimeout):
        return cycle._replace(step=step, hang=error.text)
    if isinstance(error, MonitorLost):
        return cycle._replace(step=step, crash=error.text)
    raise error
