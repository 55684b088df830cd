"""Verbs that drive the monitor
----------------------------
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..audit import choose
from ..audit.cause import descends
from ..audit.diff import diff
from ..audit.graph import source
from ..audit.outcome import BAD
from ..audit.outcome import Outcome as Ending
from ..errors import MonitorError, TargetError, UsageError
from ..hotplug.plugging import parse_devfn
from ..hotplug.recipes import Recipe, recipe_for
from ..hotplug.unplug import Cycle, Plugged, drivers, plug, unplug
from ..hunt.cycle import judge_again, leaked, still_there
from ..hunt.driver import Driver
from ..hunt.judge import Judgement
from ..hunt.rows import stale_json
from ..index import Index
from ..ledger import Book
from ..monitor.arguments import typed
from ..monitor.base import Event, Monitor
from ..report import render, words
from ..report.differences import difference_json
from ..snapshot import Device
from ..text import printable
from .properties import json_arguments, known_driver, plug_help
from .verb import CLEAN, FINDINGS, Outcome, Session

__all__ = [
    "check_leaked",
    "event_line",
    "free_id",
    "run_events",
    "run_gdb_script",
    "run_hmp",
    "run_plug",
    "run_qmp",
    "run_unplug",
    "wanted",
]

_EVENT_POLL_S = 0.5
# Seconds that the guest of a VM that runs has to release a device, before qmr does so in its
# place.
_GUEST_S = 3.0
_TYPES_SHOWN = 8
# How the human monitor says that it did not do what it was told: monitor/hmp.c and
# hmp_handle_error().
_HMP_ERROR = re.compile(
    r"^(?:Error: |unknown command: |Try \"help |Command '.*' not available |invalid char )", re.M
)


# qmp, hmp, events ------------------------------------------------------------------


def run_qmp(session: Session, args: argparse.Namespace) -> Outcome:
    """Run a command of QMP, its arguments typed by QEMU's schema (``qmr-qmp/1``)."""
    command = args.command
    if command.startswith("{"):
        command, arguments = _message(" ".join([command, *args.argument]))
    else:
        rest = " ".join(args.argument)
        arguments = (
            json_arguments(rest)
            if rest.startswith("{")
            else typed(session.monitor(), command, args.argument)
        )
    answer = session.monitor().execute(command, arguments or None)
    data = {"format": "qmr-qmp/1", "command": command, "return": answer}
    return Outcome(data, json.dumps(answer, indent=2).splitlines(), raw=True)


def _message(text: str) -> tuple[str, dict[str, object]]:
    try:
        message = json.loads(text)
        command, arguments = message["execute"], message.get("arguments", {})
        if not isinstance(command, str) or not isinstance(arguments, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            "the command is no QMP message", 'write NAME k=v... or {"execute": "NAME"}'
        ) from None
    return command, arguments


def run_hmp(session: Session, args: argparse.Namespace) -> Outcome:
    """Run a line of the human monitor (``qmr-hmp/1``)."""
    line = " ".join(args.line)
    printed = session.monitor().hmp(line)
    data = {"format": "qmr-hmp/1", "line": line, "output": printed}
    # What a guest may name (a device, a block node) comes through here as well.
    lines = [printable(row.expandtabs(), 4000) for row in printed.splitlines()]
    # QEMU has no other word for a failure here.
    return Outcome(data, lines, 2 if _HMP_ERROR.search(printed) else CLEAN, raw=True)


def run_events(session: Session, args: argparse.Namespace) -> Outcome:
    """Print events as they come (``qmr-event/1``, a line an event)."""
    found = _arriving(session, args.seconds, args.count)
    data = (
        {
            "format": "qmr-event/1",
            "event": event.name,
            "data": event.data,
            "timestamp_us": event.timestamp_us,
        }
        for event in found
    )
    return Outcome(data, (event_line(event) for event in found), stream=True, raw=True)


def _arriving(session: Session, seconds: float | None, count: int | None) -> Iterator[Event]:
    """Yield events until enough came, the time is over, or the user has seen enough."""
    monitor = session.monitor()
    what = "events" if count is None else render.plural(count, "event")
    until = "Ctrl-C ends it" if seconds is None else f"{seconds:g} s at most"
    waits = f"waiting for {what} of QEMU, {until}"
    deadline = time.monotonic() + seconds if seconds is not None else None
    seen = 0
    try:
        while count is None or seen < count:
            session.progress(f"{waits}; {seen} so far" if seen else waits)
            left = _EVENT_POLL_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            event = monitor.wait_event(lambda event: True, min(left, _EVENT_POLL_S))
            if event is not None:
                seen += 1
                session.progress("")
                yield event
    except KeyboardInterrupt:
        return
    finally:
        session.progress("")


def event_line(event: Event) -> str:
    """Return an event as one line: when, which, what."""
    stamp = time.strftime("%H:%M:%S", time.localtime(event.timestamp_us // 1_000_000))
    when = f"{stamp}.{event.timestamp_us % 1_000_000:06d}"
    data = f" {json.dumps(event.data)}" if event.data else ""
    return f"{when} {printable(event.name)}{data}"


# plug ------------------------------------------------------------------------------


def run_plug(session: Session, args: argparse.Namespace) -> Outcome:
    """Plug a device with what its recipe needs (``qmr-plug/1``).

    :raises UsageError: it would make QEMU abort, and ``--force`` was not said.
    :raises MonitorError: QEMU refused.
    """
    name, asks = args.driver.removesuffix(",help"), ["help"]
    if name != args.driver or args.property in (asks, ["?"]):
        return plug_help(session.monitor(), name)
    driver = session.driver()
    recipe, id = wanted(driver, args.driver, args.property)
    before = choose(Index(driver.read()))[1]
    id = id or free_id(before.index)
    if not args.force:
        check_leaked(before, recipe, id)
    plugged = driver.drive(lambda monitor: plug(monitor, recipe, id, force=args.force))
    after = choose(Index(driver.read()))[1]
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
    return Outcome(data, _plug_lines(after, plugged, appeared))


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
    if recipe.bus != "PCI" and leaked(book, recipe.driver):
        raise UsageError(still_there(recipe), "or say --force")


def wanted(driver: Driver, name: str, properties: Sequence[str]) -> tuple[Recipe, str]:
    """Return how to plug a device that a user names, and the id that it was given.

    :param properties: ``k=v`` words.
    :raises UsageError: this QEMU has no such device, or a word is no assignment.
    """
    known = driver.drive(drivers)
    known_driver(name, known)
    if properties and properties[0].startswith("{"):
        given = json_arguments(" ".join(properties))
    else:
        words_given = [f"driver={name}", *properties]
        given = driver.drive(lambda monitor: typed(monitor, "device_add", words_given))
    given.pop("driver", None)
    return _recipe(recipe_for(name, known), given), str(given.get("id", ""))


def _recipe(recipe: Recipe, properties: dict[str, object]) -> Recipe:
    """Let the user's properties go before the recipe's; a backend that is named is not made."""
    given = {key: value for key, value in properties.items() if key != "id"}
    backends = tuple(b for b in recipe.backends if not b.property or b.property not in given)
    return recipe._replace(properties={**recipe.properties, **given}, backends=backends)


def free_id(index: Index) -> str:
    """Return an id that no device has."""
    taken = {device.id for device in index.snapshot.devices.values()}
    return next(id for id in (f"qmr{n}" for n in range(len(taken) + 1)) if id not in taken)


def _plug_lines(after: Book, plugged: Plugged, appeared: Sequence[int]) -> Iterator[str]:
    objects = after.index.snapshot.objects
    bus = f" on {printable(plugged.bus)}" if plugged.bus else ""
    slot = f", slot {plugged.slot}" if plugged.slot is not None else ""
    yield (
        f"{plugged.id} ({plugged.recipe.driver}) is plugged{bus}{slot}: "
        f"{render.plural(len(appeared), 'object')} appeared"
    )
    if plugged.avoided:
        places = ", ".join(plugged.avoided)
        yield render.paint(
            f"  not at {places}: a device that leaked still owns the RAM blocks there, and QEMU "
            "would abort",
            "warning",
        )
    types = Counter(objects[address].type for address in appeared)
    rows = [render.Row((str(n), printable(kind))) for kind, n in types.most_common(_TYPES_SHOWN)]
    yield from render.table((), rows, right=(0,))
    if len(types) > _TYPES_SHOWN:
        yield f"  and {len(types) - _TYPES_SHOWN} more types"
    if plugged.backends:
        yield f"  behind it: {', '.join(plugged.backends)}"
    yield render.paint(f"  qmr refs {shlex.quote(plugged.id)} shows what holds it", "dim")


# unplug ----------------------------------------------------------------------------


def run_unplug(session: Session, args: argparse.Namespace) -> Outcome:
    """Unplug a device and judge what stays (``qmr-unplug/1``); the exit code is 1 for a finding.

    :raises MonitorError: QEMU refused.
    """
    driver = session.driver()
    with_it = choose(Index(driver.read()))[1]
    device = _plugged_device(session, with_it.index, args.id)
    plugged = driver.drive(lambda monitor: _as_plugged(monitor, with_it.index, device))
    cycle = driver.drive(lambda monitor: unplug(monitor, plugged, guest=_GUEST_S, insist=True))
    if cycle.refused is not None:
        raise MonitorError(f"QEMU refused to unplug {device.id}: {printable(cycle.refused)}")
    if cycle.died:
        outcome, text = Ending.HANG, cycle.hang
        if cycle.crash is not None:
            outcome, text = Ending.CRASH, driver.death() or cycle.crash
        verdict = Judgement(outcome, "", (), (), f"QEMU did not survive it: {text}")
        return _unplugged(with_it, None, plugged, cycle, verdict)
    before = _without(with_it, device.address)
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
            f"qmr why {index.handle(address)} says what keeps it",
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
    return Plugged(recipe, device.id, path, bus, devfn, 0, 0, ())


def _without(book: Book, device: int) -> Book:
    """Return the books as if a device and all that came with it had not been there.

    What never has a parent came with it when the device alone holds it.
    """
    snapshot = book.index.snapshot
    gone = {a for a in snapshot.objects if descends(book, a, device)}
    for address in snapshot.objects.keys() - gone:
        holders = {source(book, edge) for edge in book.on.get(address, ())}
        if holders and holders <= gone:
            gone.add(address)
    kept = {a: obj for a, obj in snapshot.objects.items() if a not in gone}
    return replace(book, index=Index(snapshot._replace(objects=kept)))


def _unplugged(
    with_it: Book, after: Book | None, plugged: Plugged, cycle: Cycle, verdict: Judgement
) -> Outcome:
    data = {
        "format": "qmr-unplug/1",
        "device": plugged.recipe.driver,
        "id": plugged.id,
        "was": plugged.path or "",
        "outcome": str(verdict.outcome),
        "cause": verdict.cause,
        "causes": list(dict.fromkeys(cause.name for cause in verdict.causes)),
        "acknowledge": cycle.acknowledge or "",
        "event": cycle.event,
        "objects_left": [
            {
                "address": words.hex_text(left.address),
                "type": left.type,
                "was": left.was,
                "observed": left.observed,
                "expected": left.expected,
                "references": words.references(after.index, left.references) if after else [],
            }
            for left in verdict.left
        ],
        "stale": [stale_json(row, with_it.index) for row in verdict.stale],
        "text": verdict.text,
    }
    # Where the guest did not release it, the device is still plugged.
    code = FINDINGS if verdict.outcome in BAD else 2 if verdict.outcome == "not-acked" else CLEAN
    return Outcome(data, _unplug_lines(with_it, after, plugged, cycle, verdict), code)


def _unplug_lines(
    with_it: Book, after: Book | None, plugged: Plugged, cycle: Cycle, verdict: Judgement
) -> Iterator[str]:
    look = "error" if verdict.outcome in BAD else "good" if verdict.outcome == "clean" else "note"
    name = f"{plugged.id} ({plugged.recipe.driver})"
    if not verdict.causes:
        yield f"{name}: {render.paint(verdict.outcome, look)}, {printable(verdict.text, 2000)}"
        return
    stays = len(verdict.left)
    yield (
        f"{name}: {render.paint(verdict.outcome, look)}, "
        f"{render.plural(stays, 'object')} that came with it {'is' if stays == 1 else 'are'} "
        "still alive"
    )
    if not cycle.event:
        yield "  QEMU sent no DEVICE_DELETED for it"
    for cause in verdict.causes:
        yield f"  {cause.name}: {printable(cause.text, 2000)}"
        if after is not None:
            yield from words.edge_table(words.edge_rows(after, cause.edges), 4)
    for row in verdict.stale:
        yield f"  stale: {printable(stale_json(row, with_it.index)['text'], 2000)}"
    for left in verdict.left[:_TYPES_SHOWN]:
        count = render.plural(left.observed, "reference")
        yield render.paint(
            f"  {printable(left.was)} ({printable(left.type)}): {count} {left.address:#x}", "dim"
        )
    if stays > _TYPES_SHOWN:
        yield render.paint(f"  and {stays - _TYPES_SHOWN} more", "dim")


# gdb-script ------------------------------------------------------------------------


def run_gdb_script(session: Session, args: argparse.Namespace) -> Outcome:
    """Print the path of the script that GDB is to source."""
    package = Path(__file__).resolve().parent.parent
    places = (package.parent / "gdb" / "qmr.py", package / "gdb_script" / "qmr.py")
    for place in places:
        if place.is_file():
            data = {"format": "qmr-gdb-script/1", "path": str(place)}
            return Outcome(data, [str(place)], raw=True)
    raise TargetError("this installation of qmr has no script for GDB", "install qmr again")
