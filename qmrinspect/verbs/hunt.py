"""The verbs that hunt
-------------------

``hunt`` plugs, unplugs and judges; ``demo`` does it on a QEMU that it starts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..hotplug.recipes import recipe_for
from ..hotplug.unplug import drivers
from ..hunt import Hunt
from ..hunt.cycle import Driver
from ..hunt.growth import Growth
from ..hunt.rows import row_of
from ..index import printable
from .verb import Argument, Outcome, Session, Verb
from .verdicts import Result, Verdicts

if TYPE_CHECKING:
    from ..hunt.campaign import Plan

__all__ = ["VERBS"]

_DEMO = ("virtio-net-pci", "e1000e", "usb-tablet", "intel-hda", "bochs-display", "qemu-xhci")

_UNIQUE = f"{os.getpid()}-{time.time_ns() // 1_000_000_000 % 100_000}"
_serial = itertools.count(1)


# On a VM that runs -----------------------------------------------------------------


def _on_target(
    driver: Driver, names: Sequence[str], args: argparse.Namespace, session: Session
) -> Iterator[Result]:
    """Hunt on somebody else's VM: nothing is restarted."""
    known = driver.drive(drivers)
    for name in names:
        if name not in known and ":" not in name:
            raise UsageError(
                f"this QEMU has no device {printable(name)}", "qmr hmp 'info qdm' lists them"
            )
    return _cycles(driver, [recipe_for(name, known) for name in names], args, session)


def _cycles(
    driver: Driver, recipes: Sequence[Any], args: argparse.Namespace, session: Session
) -> Iterator[Result]:
    bench = Hunt(driver, args.wait_guest, pinned=args.forecast)
    done = 0
    try:
        for recipe in recipes:
            growth = Growth()
            for number in range(1, args.cycles + 1):
                session.progress(f"{done} of {len(recipes) * args.cycles}: {recipe.driver}")
                # The id is new even to a VM that an earlier hunt left something in.
                hunted = bench.one(recipe, f"qmr{_UNIQUE}-{next(_serial)}")
                done += 1
                row = row_of(hunted, number)
                if args.cycles > 1 and hunted.books:
                    if number == 1:
                        growth.begin(hunted.books[0])
                    if hunted.after is not None:
                        growth.add(hunted.after)
                    if number == args.cycles:
                        row["growth"] = growth.summary()
                yield Result([row], True)
                if hunted.outcome in ("crash", "hang"):
                    return
    finally:
        session.progress("")


# On VMs of our own -----------------------------------------------------------------


def _on_own_vms(plan: Plan, args: argparse.Namespace, session: Session) -> Iterator[Result]:
    from ..hunt.campaign import run
    from ..hunt.limits import workers_for

    workers = workers_for(plan.settings, args.jobs or (1 if args.driver else 0))
    store = None
    jobs = list(enumerate(plan.jobs))
    if args.campaign:
        from ..hunt.store import Store

        store = Store(args.campaign)
        jobs = store.begin(plan)
        if len(jobs) < len(plan.jobs):
            for row in store.rows():
                yield Result([row], False)
    begin, found, done = time.monotonic(), 0, 0
    if args.dask:
        from ..hunt.cluster import run_on

        source = run_on(args.dask, plan.settings, jobs)
    else:
        source = run(plan.settings, jobs, workers)
    try:
        session.progress(f"0 of {len(jobs)} done, {workers} running")
        for one in source:
            done += 1
            if store is not None and not store.add(one):
                continue
            found += sum(1 for row in one.rows if row["outcome"] in _COUNTED)
            left = (time.monotonic() - begin) / done * (len(jobs) - done)
            running = min(workers, len(jobs) - done)
            session.progress(
                f"{done} of {len(jobs)} done, {running} running, {found} found, "
                f"about {left:.0f} s left: {one.job.driver}"
            )
            yield Result(one.rows, True, one.error, one.job.driver)
    finally:
        session.progress("")
        if store is not None:
            store.close()


_COUNTED = ("leak", "partial-leak", "crash", "hang")


def hunt(session: Session, args: argparse.Namespace) -> Outcome:
    """Plug and unplug devices and judge each one."""
    if args.cycles < 1:
        raise UsageError("--cycles takes a number from 1")
    args.wait_guest = 0.0
    if session.has_target() or args.guest.isdigit():
        if not args.driver:
            raise UsageError(
                "on a VM that runs, name the devices to hunt", "qmr TARGET hunt virtio-net-pci"
            )
        args.wait_guest = 10.0 if args.guest != "none" else 0.0
        driver = _attached(int(args.guest)) if args.guest.isdigit() else session.driver()
        return Verdicts(args).outcome(_on_target(driver, args.driver, args, session))
    return _own(session, args, args.driver)


def _attached(pid: int) -> Driver:
    """Return a VM that the user runs, by its process id."""
    from ..hunt import Attached
    from ..monitor.addresses import monitors_of
    from ..monitor.base import open_monitor
    from ..monitor.connecting import connect_first
    from ..reading import Reader
    from ..target.process import Process

    process = Process(pid)
    monitor = connect_first(monitors_of(pid, process.argv), open_monitor)
    return Attached(Reader(process).read, monitor)


def _own(session: Session, args: argparse.Namespace, names: Sequence[str]) -> Outcome:
    from ..hunt.campaign import plan
    from ..hunt.guest import find_guest
    from ..hunt.settings import Settings

    settings = Settings(
        qemu=args.qemu,
        machine=args.machine,
        accel=args.accel,
        cycles=args.cycles,
        guest=find_guest(args.guest),
        bundle=os.path.abspath(args.bundle) if args.bundle else "",
        forecast=args.forecast,
    )
    all_models = (args.cpus or ("all" if settings.guest == "none" else "own")) == "all"
    planned = plan(settings, names, all_models)
    return Verdicts(args, planned).outcome(_on_own_vms(planned, args, session))


def demo(session: Session, args: argparse.Namespace) -> Outcome:
    """Do the main job on a QEMU that is started for it."""
    for argument in _CAMPAIGN:
        name = argument.names[-1].lstrip("-").replace("-", "_")
        setattr(args, name, argument.options.get("default", False))
    args.driver = list(_DEMO)
    return _own(session, args, _DEMO)


_QEMU = Argument(
    ("--qemu",), {"default": "qemu-system-x86_64", "metavar": "PROGRAM", "help": "QEMU to start"}
)
_MACHINE = Argument(("--machine",), {"default": "pc", "help": "its machine type (default: pc)"})


def _file(name: str, help: str) -> Argument:
    return Argument((name,), {"default": "", "metavar": "FILE", "help": help}, "file")


_CAMPAIGN = (
    Argument(
        ("--forecast",),
        {
            "action": "store_true",
            "help": "hold each device by a link for one more reading, and tell exactly what its "
            "unplug would do under each policy",
        },
    ),
    Argument(("--cycles",), {"type": int, "default": 1, "help": "times to plug each device"}),
    Argument(("--accel",), {"default": "tcg", "help": "its accelerator (default: tcg)"}),
    Argument(
        ("--guest",),
        {
            "default": "none",
            "metavar": "none|linux|PID",
            "help": "who lets the devices go: nobody, so that qmr plays the guest; a Linux guest "
            "(KERNEL:INITRD names another one); or the guest of a VM that runs",
        },
    ),
    Argument(
        ("--cpus",),
        {
            "choices": ("all", "own"),
            "default": "",
            "help": "the CPU models: all, each in a VM of its own (default without a guest), or "
            "the machine's own",
        },
    ),
    Argument(
        ("--jobs",),
        {
            "type": int,
            "default": 0,
            "metavar": "N",
            "help": "VMs at once, if there is memory for them (default: two a core, or one with a "
            "guest)",
        },
    ),
    Argument(
        ("--dask",),
        {"default": "", "metavar": "ADDRESS", "help": "hunt on a cluster: tcp://SCHEDULER"},
    ),
    _file("--campaign", "keep the results in FILE, or go on with what it has"),
    _file("--baseline", "compare with an earlier campaign: only new findings fail"),
    _file("--expect", "rules for known findings, each with its reason"),
    _file("--junit", "write a JUnit report"),
    Argument(
        ("--bundle",),
        {"default": "", "metavar": "DIR", "help": "put the evidence of each finding there"},
        "file",
    ),
)

VERBS = (
    Verb(
        "hunt",
        "plug and unplug devices, judge each one by what remains in memory",
        (
            Argument(
                ("driver",),
                {
                    "nargs": "*",
                    "metavar": "DRIVER",
                    "help": "device types as for device_add, or object:TYPE, chardev:TYPE, "
                    "netdev:TYPE, block:TYPE; without any, all that QEMU can plug",
                },
                "driver",
            ),
            *_CAMPAIGN,
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
