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
from typing import TYPE_CHECKING

from ..audit.growth import Growth
from ..errors import UsageError
from ..hotplug.kinds import Recipe
from ..hotplug.recipes import recipe_for
from ..hotplug.unplug import drivers
from ..hunt.cycle import Hunt
from ..hunt.driver import Driver
from ..hunt.rows import is_bad, row_of
from ..report.verdicts import Result, Verdicts
from ..text import printable
from .hunt_options import CAMPAIGN, PROGRAM
from .verb import CLEAN, FINDINGS, Outcome, Session

if TYPE_CHECKING:
    from ..hunt.campaign import Plan

__all__ = ["run_demo", "run_hunt"]

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
    driver: Driver, recipes: Sequence[Recipe], args: argparse.Namespace, session: Session
) -> Iterator[Result]:
    bench = Hunt(driver, args.wait_guest, pinned=args.forecast, trace=args.trace)
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
            found += sum(1 for row in one.rows if is_bad(row))
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


def run_hunt(session: Session, args: argparse.Namespace) -> Outcome:
    """Plug and unplug devices and judge each one."""
    if args.cycles < 1:
        raise UsageError("--cycles takes a number from 1")
    if args.policies:
        from .policies import hunt_builds

        return hunt_builds(session, args)
    if args.introspect:
        from .introspect import hunt_types

        return hunt_types(session, args)
    args.wait_guest = 0.0
    if session.has_target() or args.guest.isdigit():
        if not args.driver:
            raise UsageError(
                "on a VM that runs, name the devices to hunt", "qmr TARGET hunt virtio-net-pci"
            )
        args.wait_guest = 10.0 if args.guest != "none" else 0.0
        given = session.layout_file
        driver = _attached(int(args.guest), given) if args.guest.isdigit() else session.driver()
        return _outcome(Verdicts(args), _on_target(driver, args.driver, args, session))
    return _own(session, args, args.driver)


def _outcome(verdicts: Verdicts, results: Iterator[Result]) -> Outcome:
    # The work is done while its outcome is printed.
    return Outcome(
        verdicts.documents(results),
        verdicts.lines(results),
        stream=True,
        late=lambda: FINDINGS if verdicts.failed() else CLEAN,
    )


def _attached(pid: int, given: str) -> Driver:
    """Return a VM that the user runs, by its process id."""
    from ..hunt.attached import Attached
    from ..monitor.addresses import monitors_of
    from ..monitor.connecting import connect_first
    from ..monitor.open import open_monitor
    from ..reading import Reader
    from ..target.process import Process
    from ..trace.tracing import tracing_of

    process = Process(pid)
    monitor = connect_first(monitors_of(pid, process.argv), open_monitor)
    reader = Reader(process, given=given)
    return Attached(reader.read, monitor, reader.stale, lambda: tracing_of(reader))


def _own(session: Session, args: argparse.Namespace, names: Sequence[str]) -> Outcome:
    from ..hunt.campaign import plan
    from ..hunt.guest import find_guest
    from ..hunt.settings import Settings

    settings = Settings(
        qemu=args.qemu or PROGRAM,
        machine=args.machine,
        accel=args.accel,
        cycles=args.cycles,
        guest=find_guest(args.guest),
        bundle=os.path.abspath(args.bundle) if args.bundle else "",
        forecast=args.forecast,
        layout=os.path.abspath(session.layout_file) if session.layout_file else "",
        trace=args.trace,
    )
    all_models = (args.cpus or ("all" if settings.guest == "none" else "own")) == "all"
    planned = plan(settings, names, all_models)
    return _outcome(Verdicts(args, planned), _on_own_vms(planned, args, session))


def run_demo(session: Session, args: argparse.Namespace) -> Outcome:
    """Do the main job on a QEMU that is started for it."""
    for argument in CAMPAIGN[1:]:
        name = argument.names[-1].lstrip("-").replace("-", "_")
        setattr(args, name, argument.options.get("default", False))
    args.driver = list(_DEMO)
    return _own(session, args, _DEMO)
