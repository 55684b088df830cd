"""One unplug
----------

Takes a device out again, and acknowledges it in the guest's place in between.

Each step is a function over plain data, so that a front can let the VM run for a step and
read its memory between two.  Nothing here judges: ``DEVICE_DELETED`` is sent by
``device_finalize()`` (hw/core/qdev.c), so its absence is a symptom, and the object in
memory is the proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..errors import MonitorError, PeerMissing
from ..monitor.base import CommandError, Event, Monitor, MonitorLost, MonitorTimeout
from ..text import Word
from .acknowledge import acknowledge, prepare, unparented
from .kinds import Driver, Recipe
from .plugging import Plugged, now_us, plug, release
from .recipes import parse_qdm

__all__ = [
    "EVENT_TIMEOUT",
    "Cycle",
    "Plugged",
    "Step",
    "drivers",
    "finish",
    "force_topology",
    "more_cycles",
    "plug",
    "release",
    "request_unplug",
    "run_cycle",
    "unplug",
    "wait_deleted",
]

#: Seconds to wait for ``DEVICE_DELETED``: RCU's grace period takes 10 to 100 ms.
EVENT_TIMEOUT = 0.5
# qmp_device_del(), system/qdev-monitor.c
_REQUESTED = "is already in the process of unplug"
# Of many cycles so few may fail.
_FAILED_MAX = 3


class Step(Word):
    """A step of a cycle, which may be refused, hang, or crash QEMU."""

    #: What a backend needs is not on this machine.
    PREPARE = "prepare"
    LIST_PROPERTIES = "device-list-properties"
    DEVICE_ADD = "device_add"
    DEVICE_DEL = "device_del"
    ACKNOWLEDGE = "acknowledge"
    WAIT = "wait"
    #: The link that held a device is dropped.
    FINALIZE = "finalize"
    JUDGE = "judge"
    RELEASE = "release"
    #: A type was made and dropped, and never plugged.
    INTROSPECT = "introspect"


class Cycle(NamedTuple):
    """What was seen of one plug and unplug.

    Times are in microseconds since 1970; what did not happen is None.

    :param plug_us: when ``device_add`` was sent, and ``plugged_us`` when it was answered.
    :param request_us: when ``device_del`` was sent, ``acknowledge_us`` when it was acknowledged,
        and ``event_us`` when its event came.
    :param bus: the path of the bus that the device was on.
    :param acknowledge: how the unplug was acknowledged, as of
        :class:`~qmrinspect.hotplug.acknowledge.Acknowledged`.
    :param event: whether ``DEVICE_DELETED`` came.
    :param unparented: whether the device has left ``/machine/peripheral``.
    :param unparented_us: when that was seen.
    :param step: what was refused, hung or crashed.
    :param refused: QEMU's reason.
    :param crash: how the monitor was lost.
    :param hang: what was not answered.
    :param not_released: the backends that QEMU did not release, with its reasons.
    """

    driver: str
    id: str | None = None
    bus: str | None = None
    plug_us: int | None = None
    plugged_us: int | None = None
    request_us: int | None = None
    acknowledge: str | None = None
    acknowledge_us: int | None = None
    event: bool = False
    event_us: int | None = None
    unparented: bool = False
    step: Step | None = None
    refused: str | None = None
    crash: str | None = None
    hang: str | None = None
    not_released: tuple[str, ...] = ()
    unparented_us: int | None = None

    @property
    def unplug_us(self) -> int | None:
        """Microseconds to the event, or to the acknowledgement; None where neither came."""
        end_us = self.acknowledge_us if self.event_us is None else self.event_us
        if end_us is None or self.request_us is None:
            return None
        return max(0, end_us - self.request_us)

    @property
    def died(self) -> bool:
        """Whether QEMU died of it, or does not answer any more."""
        return self.crash is not None or self.hang is not None


def drivers(monitor: Monitor) -> dict[str, Driver]:
    """Ask QEMU which devices it has, by name and alias; about 10 ms.

    :raises MonitorError: it does not answer.
    """
    return parse_qdm(monitor.hmp("info qdm"))


def request_unplug(monitor: Monitor, id: str) -> int:
    """Send ``device_del`` and return when that was, in microseconds since 1970.

    :raises CommandError: QEMU refused.
    :raises MonitorLost: QEMU died of it.
    """
    now = now_us()
    monitor.execute("device_del", {"id": id})
    return now


def force_topology(monitor: Monitor) -> bool:
    """Make QEMU render its flat views anew, which releases those that only a cache holds.

    Dirty logging that begins is a topology change (``memory_global_dirty_log_start()``,
    softmmu/memory.c), and harms no guest.

    :return: whether QEMU could be made to.
    """
    arguments: Mapping[str, object] = {"calc-time": 1, "mode": "dirty-bitmap"}
    try:
        monitor.execute("calc-dirty-rate", arguments)
    except CommandError:
        return False
    return True


# The unplug as a whole -------------------------------------------------------------


def wait_deleted(
    monitor: Monitor, plugged: Plugged, timeout: float = EVENT_TIMEOUT
) -> Event | None:
    """Wait for the device's own ``DEVICE_DELETED``, for ``timeout`` seconds at most.

    :return: None when it does not come.
    :raises MonitorLost: QEMU died meanwhile.
    """

    def ours(event: Event) -> bool:
        return event.name == "DEVICE_DELETED" and event.data.get("path") == plugged.path

    return monitor.wait_event(ours, timeout)


def _late_event(monitor: Monitor, plugged: Plugged, cycle: Cycle, timeout: float = 0.0) -> Cycle:
    """Note a ``DEVICE_DELETED`` that has come, or comes within ``timeout`` seconds.

    :raises MonitorLost: QEMU died meanwhile.
    """
    event = None if cycle.event else wait_deleted(monitor, plugged, timeout)
    return cycle if event is None else cycle._replace(event=True, event_us=event.timestamp_us)


def finish(monitor: Monitor, plugged: Plugged, cycle: Cycle) -> Cycle:
    """Note an event that came late, and release what stood behind the device.

    :raises MonitorError: QEMU died meanwhile, or hangs.
    """
    cycle = _late_event(monitor, plugged, cycle)
    return cycle._replace(not_released=release(monitor, plugged))


def unplug(
    monitor: Monitor,
    plugged: Plugged,
    timeout: float = EVENT_TIMEOUT,
    guest: float | None = None,
    insist: bool = False,
) -> Cycle:
    """Unplug, acknowledge, and wait for the event: the second half of a cycle.

    A refusal, a hang and a crash are results here.  The backends stay: see :func:`release`.

    :param timeout: seconds to wait for ``DEVICE_DELETED``.
    :param guest: seconds that the guest of a VM that runs has to release the device; None when
        nobody is there and it is acknowledged in its place.
    :param insist: do so as well when a guest has let its time go by.
    """
    cycle = Cycle(
        driver=plugged.recipe.driver,
        id=plugged.id,
        bus=plugged.bus,
        plug_us=plugged.plug_us,
        plugged_us=plugged.plugged_us,
    )
    step = Step.DEVICE_DEL
    try:
        # The reply may never come, and the time counts all the same.
        cycle = cycle._replace(request_us=now_us())
        if plugged.recipe.non_device is not None:
            return _delete(monitor, plugged, cycle)
        if insist or guest is None:
            prepare(monitor, plugged.recipe)
        try:
            cycle = cycle._replace(request_us=request_unplug(monitor, plugged.id))
        except CommandError as error:
            # Somebody else asked for it, and the guest has not released it.
            if _REQUESTED not in error.desc:
                raise
        step = Step.ACKNOWLEDGE
        cycle = cycle._replace(acknowledge_us=now_us())
        how, time_us = acknowledge(monitor, plugged, guest, insist)
        cycle = cycle._replace(acknowledge=how, acknowledge_us=time_us)
        step = Step.WAIT
        gone = unparented(monitor, plugged.id)
        cycle = cycle._replace(unparented=gone, unparented_us=now_us() if gone else None)
        cycle = _late_event(monitor, plugged, cycle, timeout)
        if gone:
            return cycle
        gone = unparented(monitor, plugged.id)
        return cycle._replace(unparented=gone, unparented_us=now_us() if gone else None)
    except MonitorError as error:
        return ended(cycle, step, error)


def _delete(monitor: Monitor, plugged: Plugged, cycle: Cycle) -> Cycle:
    # What is no device goes at once, or is refused.
    non_device = plugged.recipe.non_device
    assert non_device is not None and non_device.delete is not None
    monitor.execute(non_device.delete, {non_device.delete_key: plugged.id})
    now = now_us()
    return cycle._replace(
        acknowledge="sync", acknowledge_us=now, unparented=True, unparented_us=now
    )


def run_cycle(
    monitor: Monitor,
    recipe: Recipe,
    id: str,
    timeout: float = EVENT_TIMEOUT,
    refused: list[Plugged] | None = None,
) -> Cycle:
    """Plug, unplug and release in one go; every failure of QEMU is in the result.

    :param timeout: seconds to wait for ``DEVICE_DELETED``.
    :param refused: as of :func:`plug`.
    """
    try:
        plugged = plug(monitor, recipe, id, refused=refused)
    except (MonitorError, PeerMissing) as error:
        return ended(Cycle(recipe.driver, id), Step.DEVICE_ADD, error)
    cycle = unplug(monitor, plugged, timeout)
    try:
        if cycle.died:
            return cycle
        return finish(monitor, plugged, cycle)
    except MonitorError as error:
        return ended(cycle, Step.RELEASE, error)
    finally:
        plugged.close()


def more_cycles(monitor: Monitor, recipe: Recipe, id: str, count: int) -> int:
    """Run cycles, nothing being judged; return how many went as they should.

    On a busy machine one fails now and then; more than a few end it.

    :raises MonitorLost: QEMU died of one.
    """
    done = failed = 0
    while done < count and failed <= _FAILED_MAX:
        cycle = run_cycle(monitor, recipe, f"{id}{done + failed}")
        if not cycle.unparented or cycle.refused or cycle.hang or cycle.not_released:
            failed += 1
        else:
            done += 1
    return done


def ended(cycle: Cycle, step: Step, error: MonitorError | PeerMissing) -> Cycle:
    """Put into a cycle how QEMU ended it, or that it could not be begun; the rest is raised."""
    if isinstance(error, PeerMissing):
        return cycle._replace(step=Step.PREPARE, refused=error.text)
    if isinstance(error, CommandError):
        return cycle._replace(step=step, refused=error.desc)
    if isinstance(error, MonitorTimeout):
        return cycle._replace(step=step, hang=error.text)
    if isinstance(error, MonitorLost):
        return cycle._replace(step=step, crash=error.text)
    raise error
