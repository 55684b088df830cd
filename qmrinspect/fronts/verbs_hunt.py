"""The verbs that hunt
-------------------

``hunt`` plugs, unplugs and judges; ``demo`` does it on a QEMU that it starts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Callable

from ..errors import UsageError
from ..hotplug.recipes import Driver as DeviceType
from ..hotplug.recipes import Recipe, recipe_for
from ..hotplug.unplug import drivers
from ..hunt import Hunted, OwnVm, hunt_one
from ..hunt.cycle import Driver
from ..index import printable
from .table import CLEAN, FINDINGS, Argument, Outcome, Session, Verb
from .words import references

__all__ = ["VERBS", "hunted_json"]

_DEMO = ("virtio-net-pci", "e1000e", "usb-tablet", "intel-hda", "bochs-display", "qemu-xhci")

_UNIQUE = f"{os.getpid()}-{time.time_ns() // 1_000_000_000 % 100_000}"
_serial = itertools.count(1)

# Outcomes that are findings; the others say that nothing was wrong, or nothing tried.
_BAD = frozenset(("leak", "partial-leak", "crash", "hang"))


def hunted_json(hunted: Hunted, number: int) -> dict[str, Any]:
    """Return one line of ``qmr-hunt/1``; ``number`` is the cycle's, from 1."""
    judgement, book = hunted.judgement, hunted.after
    return {
        "format": "qmr-hunt/1",
        "device": hunted.recipe.driver,
        "bus": hunted.recipe.bus,
        "machine": hunted.machine,
        "outcome": hunted.outcome,
        "cause": judgement.cause,
        "causes": list(dict.fromkeys(cause.name for cause in judgement.causes)),
        "cycle": number,
        "objects_left": [
            {
                "address": hex(left.address),
                "type": left.type,
                "was": left.was,
                "observed": left.observed,
                "references": references(book.index, left.references) if book else [],
            }
            for left in judgement.left
        ],
        "event": hunted.cycle.event,
        "plug_us": hunted.plug_us,
        "unplug_us": hunted.unplug_us,
        "judge_us": hunted.judge_us,
        "text": judgement.text,
    }


def _verdict(hunted: Hunted) -> Iterator[str]:
    """One device for people: the verdict, then the references that make the case."""
    judgement, book = hunted.judgement, hunted.after
    cause = " with ".join(dict.fromkeys(c.name for c in judgement.causes))
    head = f"{hunted.recipe.driver:<20} {hunted.outcome:<13} {cause}"
    yield head.rstrip()
    if hunted.outcome == "clean":
        return
    if not judgement.causes:
        yield f"    {printable(judgement.text, 400)}"
    for found in judgement.causes:
        yield f"    {found.text}"
        for edge in found.edges:
            holder = book.index.label(edge.holder) if book and edge.holder else "a variable"
            yield f"        {edge.kind}: {holder}  {printable(edge.field)}"
    others = len(judgement.left) - 1
    if others > 0:
        yield f"    {others} more objects that came with it are still alive"


def _outcome(results: Iterator[tuple[int, Hunted]], args: argparse.Namespace) -> Outcome:
    """Print every verdict as it is reached, then the summary."""
    if args.json:
        rows = [(number, hunted) for number, hunted in results]
        data: list[Any] = [hunted_json(hunted, number) for number, hunted in rows]
        counts = Counter(hunted.outcome for _, hunted in rows)
        data.append({"format": "qmr-hunt/1", "summary": dict(counts)})
        return Outcome(data, (), _code(counts), stream=True)
    lines = _Verdicts(results)
    return Outcome(None, lines, CLEAN, late=lines.code)


class _Verdicts:
    """The text of a hunt, made as it goes; the exit code is known at its end."""

    def __init__(self, results: Iterator[tuple[int, Hunted]]) -> None:
        self._results = results
        self._counts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[str]:
        for _, hunted in self._results:
            self._counts[hunted.outcome] += 1
            yield from _verdict(hunted)
        total = sum(self._counts.values())
        parts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(self._counts.items()))
        yield f"{total} {'cycle' if total == 1 else 'cycles'}: {parts}"

    def code(self) -> int:
        return _code(self._counts)


def _code(counts: Counter[str]) -> int:
    return FINDINGS if _BAD & set(counts) else CLEAN


def _cycles(
    driver: Driver,
    names: Sequence[str],
    known: dict[str, DeviceType],
    cycles: int,
    session: Session,
    renew: Callable[[], None],
) -> Iterator[tuple[int, Hunted]]:
    total, done = len(names) * cycles, 0
    try:
        for name in names:
            for number in range(1, cycles + 1):
                session.progress(f"{done} of {total}: {name}")
                # The id is new even to a VM that an earlier hunt left something in.
                hunted = hunt_one(driver, recipe_for(name, known), f"qmr{_UNIQUE}-{next(_serial)}")
                done += 1
                yield number, hunted
                if hunted.outcome in _BAD:
                    renew()
    finally:
        session.progress("")


def _known(driver: Driver, names: Sequence[str]) -> dict[str, DeviceType]:
    known = driver.drive(drivers)
    for name in names:
        if name not in known:
            raise UsageError(
                f"this QEMU has no device {printable(name)}", "qmr hmp 'info qdm' lists them"
            )
    return known


def _on_own_vm(
    names: Sequence[str], args: argparse.Namespace, session: Session
) -> Iterator[tuple[int, Hunted]]:
    recipes: list[Recipe] = [recipe_for(name) for name in names]
    with OwnVm(recipes, args.qemu, args.machine) as vm:
        known = _known(vm, names)
        yield from _cycles(vm, names, known, args.cycles, session, vm.renew)


def hunt(session: Session, args: argparse.Namespace) -> Outcome:
    """Plug and unplug devices and judge each one."""
    if args.cycles < 1:
        raise UsageError("--cycles takes a number from 1")
    names = args.driver or _DEMO
    if not session.has_target():
        return _outcome(_on_own_vm(names, args, session), args)
    driver = session.driver()
    known = _known(driver, names)
    return _outcome(_cycles(driver, names, known, args.cycles, session, lambda: None), args)


def demo(session: Session, args: argparse.Namespace) -> Outcome:
    """Do the main job on a QEMU that is started for it."""
    args.cycles = 1
    return _outcome(_on_own_vm(_DEMO, args, session), args)


_QEMU = Argument(
    ("--qemu",), {"default": "qemu-system-x86_64", "metavar": "PROGRAM", "help": "QEMU to start"}
)
_MACHINE = Argument(("--machine",), {"default": "pc", "help": "its machine type (default: pc)"})

VERBS = (
    Verb(
        "hunt",
        "plug and unplug devices, judge each one by what remains in memory",
        (
            Argument(
                ("driver",),
                {"nargs": "*", "metavar": "DRIVER", "help": "device types, as for device_add"},
                "driver",
            ),
            Argument(
                ("--cycles",), {"type": int, "default": 1, "help": "times to plug each device"}
            ),
            _QEMU,
            _MACHINE,
        ),
        hunt,
        example="qmr hunt intel-hda bochs-display",
    ),
    Verb(
        "demo",
        "the main job on a QEMU that qmr starts itself: six devices, one verdict each",
        (_QEMU, _MACHINE),
        demo,
        fronts=frozenset(("shell", "repl")),
        example="qmr demo",
    ),
)
