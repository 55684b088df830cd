"""Plug and unplug
---------------
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..audit import book_of
from ..audit.diff import diff
from ..audit.outcome import BAD, UNJUDGED, Outcome
from ..audit.without import without
from ..errors import MonitorError, TargetError, UsageError
from ..hotplug.plugging import parse_devfn
from ..hotplug.recipes import Recipe, recipe_for
from ..hotplug.unplug import Cycle, Plugged, drivers, plug, unplug
from ..hunt.again import judge_again, still_there
from ..hunt.driver import Driver
from ..hunt.judge import Judgement
from ..index import Index
from ..ledger import Book
from ..monitor.arguments import typed
from ..monitor.base import Monitor
from ..report import words
from ..report.differences import difference_json
from ..report.plugs import plug_lines, unplug_json, unplug_lines
from ..snapshot import Device
from ..text import printable
from .properties import json_arguments, known_driver, plug_help
from .verb import CLEAN, FINDINGS, Answer, Session

__all__ = ["check_leaked", "free_id", "run_plug", "run_unplug", "wanted"]

# Seconds that the guest of a VM that runs has to release a device, before qmr does so in its
# place.
_GUEST_S = 3.0


# plug ------------------------------------------------------------------------------


def run_plug(session: Session, args: argparse.Namespace) -> Answer:
    """Plug a device with what its recipe needs (``qmr-plug/1``).

    :raises UsageError: it would make QEMU abort, and ``--force`` was not said.
    :raises MonitorError: QEMU refused.
    """
    name, asks = args.driver.removesuffix(",help"), ["help"]
    if name != args.driver or args.property in (asks, ["?"]):
        return plug_help(session.monitor(), name)
    driver = session.driver()
    recipe, id = wanted(driver, args.driver, args.property)
    before = book_of(driver.read())
    id = id or free_id(before.index)
    if not args.force:
        check_leaked(before, recipe, id)
    plugged = driver.drive(lambda monitor: plug(monitor, recipe, id, force=args.force))
    after = book_of(driver.read())
    found = diff(before, after)
    data = {
        **difference_json(before, after, found),
        "format": "qmr-plug/1",
        "device": recipe.driver,
        "id": id,
        "path": plugged.path or "",
        "bus": plugged.bus or "",
        "backends": list(plugged.backends),
        "avoided": list(plugged.avoided),
    }
    appeared = [a for a in found.appeared if not words.of_view(after.index, a)]
    return Answer(data, plug_lines(after, plugged, appeared))


def check_leaked(book: Book, recipe: Recipe, id: str) -> None:
    """Refuse what may make QEMU abort, for a device that leaked still has the names.

    :raises UsageError: the id is such a device's, or what is plugged has no other place.
    """
    index = book.index
    for device in index.snapshot.devices.values():
        if device.id == id and not index.in_tree(device.address):
            raise UsageError(
                f"{printable(words.name(index, device.address))} leaked and still has the id {id}",
                "take another id, or say --force: QEMU may abort",
            )
    there = still_there(book, recipe)
    if there is not None and recipe.bus != "PCI":
        raise UsageError(there, "or say --force")


def wanted(driver: Driver, name: str, properties: Sequence[str]) -> tuple[Recipe, str | None]:
    """Return how to plug a device that a user names, and the id that it was given.

    :param name: of the driver, or JSON that names it; ``k=v`` may follow, behind commas.
    :param properties: ``k=v`` words, or JSON.
    :raises UsageError: this QEMU has no such device, or a word is no assignment.
    """
    known = driver.drive(drivers)
    if name.startswith("{"):
        # As device_add takes it: the driver among the arguments.
        properties = [name, *properties]
        name = str(json_arguments(" ".join(properties)).get("driver", ""))
        if not name:
            raise UsageError("these arguments name no driver", 'plug {"driver": "e1000e", ...}')
    # As -device takes it, where a comma in a value is two (qemu_opt_parse(), util/qemu-option.c).
    name, *more = (word.replace("\0", ",") for word in name.replace(",,", "\0").split(","))
    properties = [*more, *properties]
    known_driver(name, known)
    if properties and properties[0].startswith("{"):
        given = json_arguments(" ".join(properties))
    else:
        words_given = [f"driver={name}", *properties]
        given = driver.drive(lambda monitor: typed(monitor, "device_add", words_given))
    given.pop("driver", None)
    id = given.get("id")
    return _recipe(recipe_for(name, known), given), None if id is None else str(id)


def _recipe(recipe: Recipe, properties: dict[str, object]) -> Recipe:
    """Let the user's properties go before the recipe's; a backend that is named is not made."""
    given = {key: value for key, value in properties.items() if key != "id"}
    backends = tuple(b for b in recipe.backends if not b.property or b.property not in given)
    return recipe._replace(properties={**recipe.properties, **given}, backends=backends)


def free_id(index: Index) -> str:
    """Return an id that no device has."""
    taken = {device.id for device in index.snapshot.devices.values()}
    return next(id for id in (f"qmr{n}" for n in range(len(taken) + 1)) if id not in taken)


# unplug ----------------------------------------------------------------------------


def run_unplug(session: Session, args: argparse.Namespace) -> Answer:
    """Unplug a device and judge what stays (``qmr-unplug/1``); the exit code is 1 for a finding.

    :raises MonitorError: QEMU refused.
    """
    driver = session.driver()
    with_it = book_of(driver.read())
    device = _plugged_device(session, with_it.index, args.id)
    plugged = driver.drive(lambda monitor: _as_plugged(monitor, with_it.index, device))
    cycle = driver.drive(lambda monitor: unplug(monitor, plugged, guest=_GUEST_S, insist=True))
    if cycle.refused is not None:
        raise MonitorError(f"QEMU refused to unplug {device.id}: {printable(cycle.refused)}")
    if cycle.died:
        outcome, text = Outcome.HANG, cycle.hang
        if cycle.crash is not None:
            outcome, text = Outcome.CRASH, driver.death() or cycle.crash
        verdict = Judgement(outcome, None, (), (), f"QEMU did not survive it: {text}")
        return _unplugged(with_it, None, plugged, cycle, verdict)
    before = without(with_it, device.address)
    after, verdict = judge_again(driver, before, with_it, device.address)
    return _unplugged(with_it, after, plugged, cycle, verdict)


def _plugged_device(session: Session, index: Index, text: str) -> Device:
    address = session.resolve(index, text).address
    device = index.snapshot.devices.get(address)
    if device is None:
        raise TargetError(f"{words.name(index, address)} is no device", "name a device by its id")
    if not index.in_tree(address):
        raise TargetError(
            f"{words.name(index, address)} was unplugged already, and leaked",
            f"qmr why {index.handle(address)} says what holds it",
        )
    if not device.id:
        raise TargetError(
            f"{words.name(index, address)} has no id, and QEMU unplugs devices by their id",
            "give it one: -device DRIVER,id=NAME",
        )
    return device


def _as_plugged(monitor: Monitor, index: Index, device: Device) -> Plugged:
    """Describe a device that somebody else plugged the way :func:`plug` would have."""
    kind = index.snapshot.objects[device.address].type
    recipe = recipe_for(kind, drivers(monitor))._replace(backends=())
    path = index.path(device.address)
    devfn = None
    if recipe.bus == "PCI":
        devfn = parse_devfn(monitor.execute("qom-get", {"path": path, "property": "addr"}))
    bus = index.path(device.parent_bus) if device.parent_bus else None
    return Plugged(recipe, device.id, path, bus, devfn)


def _unplugged(
    with_it: Book, after: Book | None, plugged: Plugged, cycle: Cycle, verdict: Judgement
) -> Answer:
    # Where the guest did not release it, the device is still plugged.
    code = FINDINGS if verdict.outcome in BAD else 2 if verdict.outcome in UNJUDGED else CLEAN
    return Answer(
        unplug_json(with_it, after, plugged, cycle, verdict),
        unplug_lines(with_it, after, plugged, cycle, verdict),
        code,
    )
