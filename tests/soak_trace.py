#!/usr/bin/env python3
"""Traces, again and again: what the tests do a few times, done until it would have failed.

    tests/soak_trace.py [--kills N] [--rounds N] [--qemu PROGRAM]... [--keep FILE] [--out FILE]

Kills a tracer N times at random moments of a plug; plugs every PCI, USB, SCSI and virtio device
that the QEMU has under a trace from birth, and adds up; repeats the table of takers.  Writes a
page of Markdown.  What it found of each device goes into the file of ``--keep``; devices that are
in there are not plugged again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import test_trace_takers as takers  # noqa: E402

from qmrinspect.audit import choose  # noqa: E402
from qmrinspect.errors import QmrError  # noqa: E402
from qmrinspect.hotplug.plugging import plug  # noqa: E402
from qmrinspect.hotplug.recipes import START_OPTIONS, Recipe, recipe_for  # noqa: E402
from qmrinspect.hotplug.unplug import drivers  # noqa: E402
from qmrinspect.hotplug.vm import Vm  # noqa: E402
from qmrinspect.hunt.own_vm import OwnVm  # noqa: E402
from qmrinspect.index import Index  # noqa: E402
from qmrinspect.reading import Reader  # noqa: E402
from qmrinspect.target.process import Process  # noqa: E402
from qmrinspect.trace.tracing import tracing_of  # noqa: E402

# A machine has some 28 slots for PCI devices.
_IN_ONE_VM = 20
_DEVICES_IN_ONE_VM = 8
_BUSES = ("PCI", "usb-bus", "SCSI", "virtio-bus", "virtio-serial-bus", "ccid-bus", "nvme-bus")
_EXCLUSIVE = {option.name for option in START_OPTIONS if option.exclusive}
# What needs a VM that has all buses, and all that goes together.
_ANYTHING = {"PCI", *(o.name for o in START_OPTIONS)} - _EXCLUSIVE


def kills(qemu: str, count: int) -> tuple[int, int]:
    """Kill a tracer at random moments; return how often, and how often the VM answered after it."""
    done = answered = 0
    chance = random.Random(count)
    while done < count:
        with Vm(qemu) as vm:
            reader = Reader(Process(vm.pid))
            reader.read()
            for number in range(min(_IN_ONE_VM, count - done)):
                child = os.fork()
                if child == 0:
                    with contextlib.suppress(BaseException):
                        tracing_of(reader).start()
                        with vm.monitor() as monitor:
                            monitor.execute("device_add", {"driver": "e1000", "id": f"k{number}"})
                        time.sleep(1)
                    os._exit(0)
                time.sleep(chance.uniform(0.0, 0.25))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                done += 1
                with contextlib.suppress(QmrError), vm.monitor() as monitor:
                    answered += bool(monitor.execute("query-status")) and vm.alive()
    return done, answered


def plugged(qemu: str, done: Collection[str]) -> Iterator[tuple[str, Counter[str]]]:
    """Plug each device under a trace; yield its name and what its objects add up to.

    :param done: devices to leave out.
    """
    vm, number = OwnVm(_ANYTHING, qemu), 0
    try:
        known = vm.drive(drivers)
        for name in sorted(known):
            recipe = recipe_for(name, known)
            if recipe.bus not in _BUSES or name in done:
                continue
            try:
                if recipe.machine or recipe.accel or _EXCLUSIVE & set(recipe.start_options):
                    machine, accel = recipe.machine or "pc", recipe.accel or "tcg"
                    with OwnVm(recipe.needs, qemu, machine, accel=accel) as own:
                        yield name, one(own, recipe, "d1")
                    continue
                if number == _DEVICES_IN_ONE_VM or not vm.vm.alive():
                    vm.close()
                    vm, number = OwnVm(_ANYTHING, qemu), 0
                number += 1
                yield name, one(vm, recipe, f"d{number}")
            except QmrError as error:
                print(f"{name}: {error}", file=sys.stderr)
    finally:
        vm.close()


def one(vm: OwnVm, recipe: Recipe, id: str) -> Counter[str]:
    """Plug one device; count objects and references by what the trace says of them."""
    vm.read()
    tracing = vm.tracing()
    tracing.start()
    try:
        made = vm.drive(lambda monitor: plug(monitor, recipe, id))
        begin = time.monotonic_ns()
        snapshot = vm.read()
        span = begin, time.monotonic_ns()
        recording = tracing.stop()
    finally:
        tracing.close()
    for peer in made.peers:
        peer.close()
    book = choose(Index(snapshot))[1]
    born = [a for a in recording.events if a in snapshot.objects]
    out: Counter[str] = Counter(lost=recording.lost)
    for balance in tracing.explain(recording, book, born, span).balances.values():
        out["objects"] += 1
        out["refused"] += bool(balance.life.refused)
        out["unnamed"] += len(balance.unnamed)
        out["denied"] += len(balance.denied)
        out.update(held.evidence for held in balance.held)
    return out


def table(qemu: str, rounds: int) -> int:
    """Repeat the table of takers; return how often it was right."""
    said = version(qemu)
    name = next((name for name in takers.TABLES if f"version {name}" in said), "stock")
    right = 0
    for number in range(rounds):
        vm = OwnVm(("PCI",), qemu)
        try:
            machine = takers.Machine(vm, takers.TABLES[name])
            takers.test_each_remaining_reference_has_its_taker(machine)
            right += 1
            print(f"round {number}: right", file=sys.stderr)
        except AssertionError as error:
            print(f"round {number}: {error}", file=sys.stderr)
        finally:
            vm.close()
    return right


def report(qemu: str, args: argparse.Namespace) -> Iterator[str]:
    yield f"## {'with symbols' if '/qmr/' in qemu else 'stock'}: `{version(qemu)}`"
    yield ""
    if args.kills:
        done, answered = kills(qemu, args.kills)
        yield f"- {done} tracers killed with -9 at random moments of a plug: the VM was alive and"
        yield f"  its monitor answered {answered} times."
    if args.devices:
        kept = dict(read_kept(args.keep, qemu))
        for name, counts in plugged(qemu, kept):
            print(name, dict(counts), file=sys.stderr)
            kept[name] = counts
            keep(args.keep, qemu, name, counts)
        names, total = len(kept), sum(kept.values(), Counter())
        held = sum(total[how] for how in ("site+witness", "witness", "site", "last"))
        share = 100 * held / max(1, held + total["unnamed"])
        yield f"- {names} devices plugged under a trace from birth: {total['objects']} objects,"
        yield f"  {total['refused']} do not add up, {total['lost']} events lost; {held} references"
        yield f"  named ({share:.2f} %: {total['site+witness']} by site and witness,"
        yield f"  {total['witness']} by witness, {total['site']} by site, {total['last']} the last"
        yield f"  of both), {total['denied']} of a kind that the ledger denies."
    if args.rounds:
        right = table(qemu, args.rounds)
        yield f"- the table of takers: right {right} of {args.rounds} times."
    yield ""


def read_kept(file: str, qemu: str) -> Iterator[tuple[str, Counter[str]]]:
    """Yield the devices of a QEMU that an earlier run kept."""
    with contextlib.suppress(FileNotFoundError):
        for line in Path(file).read_text().splitlines() if file else ():
            row = json.loads(line)
            if row["qemu"] == version(qemu):
                yield row["device"], Counter(row["counts"])


def keep(file: str, qemu: str, device: str, counts: Counter[str]) -> None:
    """Keep what was found of a device."""
    if file:
        with open(file, "a") as out:
            print(json.dumps({"qemu": version(qemu), "device": device, "counts": counts}), file=out)


def version(qemu: str) -> str:
    done = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--devices", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--qemu", action="append", default=[])
    parser.add_argument("--keep", default="")
    parser.add_argument("--out", default=str(HERE.parent / "docs" / "trace-campaign.md"))
    args = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    lines = ["# Traces, again and again", ""]
    lines += [f"`tests/soak_trace.py` at {commit}, {date.today()}.", ""]
    for qemu in args.qemu or ["/usr/bin/qemu-system-x86_64"]:
        for line in report(qemu, args):
            print(line, flush=True)
            lines.append(line)
    Path(args.out).write_text("\n".join(lines))


if __name__ == "__main__":
    main()
