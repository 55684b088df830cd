"""The verbs that hunt
-------------------

``hunt`` plugs, unplugs and judges; ``demo`` does it on a QEMU that it starts.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..hunt.on_target import attached
from ..hunt.rows import is_bad
from ..outfile import probe_directory
from ..report.verdicts import Result, Verdicts
from .hunt_options import CAMPAIGN, DEFAULT_ACCEL, DEFAULT_MACHINE, PROGRAM
from .hunt_target import check_options, on_target
from .verb import CLEAN, FINDINGS, Answer, Session

if TYPE_CHECKING:
    from ..campaign.jobs import Plan
    from ..campaign.store import Store

__all__ = ["run_demo", "run_hunt"]

_DEMO = ("virtio-net-pci", "e1000e", "usb-tablet", "intel-hda", "bochs-display", "qemu-xhci")


# On VMs of our own -----------------------------------------------------------------


def _on_own_vms(
    plan: Plan, args: argparse.Namespace, session: Session, store: Store | None
) -> Iterator[Result]:
    from ..campaign.jobs import run
    from ..campaign.limits import workers_for

    workers = workers_for(plan.settings, args.jobs or (1 if args.driver else None))
    jobs = list(enumerate(plan.jobs))
    if store is not None:
        jobs = store.begin(plan)
        if len(jobs) < len(plan.jobs):
            for row in store.rows():
                yield Result([row], False)
    begin, found, done = time.monotonic(), 0, 0
    if args.dask:
        from ..campaign.cluster import run_on

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
        session.progress(None)
        if store is not None:
            store.close()


def run_hunt(session: Session, args: argparse.Namespace) -> Answer:
    """Plug and unplug devices and judge each one."""
    args.wait_guest = None
    on_guest = args.guest is not None and args.guest.isdigit()
    # In the REPL a VM is attached to all the time, and some hunts are on others.
    elsewhere = session.front == "repl" and (args.policies or args.introspect)
    if on_guest or (session.has_target() and not elsewhere):
        check_options(args)
        verdicts = Verdicts(args)
        args.wait_guest = 10.0 if args.guest is not None else None
        driver = attached(int(args.guest), session.layout_file) if on_guest else session.driver()
        verdicts.total, results = on_target(driver, args, session)
        return _answer(verdicts, results)
    if args.policies:
        from .policies import hunt_builds

        return hunt_builds(session, args)
    if args.introspect:
        from .introspect import hunt_types

        return hunt_types(session, args)
    return _own(session, args, args.driver)


def _answer(verdicts: Verdicts, results: Iterator[Result]) -> Answer:
    # The work is done while its answer is printed.
    return Answer(
        verdicts.documents(results),
        verdicts.lines(results),
        stream=True,
        late=lambda: FINDINGS if verdicts.failed() else CLEAN,
        interrupted=verdicts.so_far,
    )


def _own(session: Session, args: argparse.Namespace, names: Sequence[str]) -> Answer:
    from ..campaign.jobs import plan
    from ..hotplug.guest import find_guest
    from ..hunt.settings import Settings

    verdicts = Verdicts(args)
    if args.bundle:
        probe_directory(args.bundle)
    store = _store(args.campaign)
    settings = Settings(
        qemu=args.qemu or PROGRAM,
        machine=args.machine or DEFAULT_MACHINE,
        accel=args.accel or DEFAULT_ACCEL,
        cycles=args.cycles,
        guest=find_guest(args.guest) if args.guest is not None else None,
        bundle=os.path.abspath(args.bundle) if args.bundle else None,
        forecast=args.forecast,
        layout=os.path.abspath(session.layout_file) if session.layout_file else None,
        trace=args.trace,
        error_paths=args.error_paths,
    )
    all_models = (args.cpus or ("all" if settings.guest is None else "own")) == "all"
    try:
        planned = plan(settings, names, all_models)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was done yet; the same command begins anew") from None
    verdicts.follow(planned)
    return _answer(verdicts, _on_own_vms(planned, args, session, store))


def _store(campaign: str | None) -> Store | None:
    if not campaign:
        return None
    from ..campaign.store import Store

    return Store(campaign)


def run_demo(session: Session, args: argparse.Namespace) -> Answer:
    """Hunt a few devices on a QEMU that is started for it."""
    for argument in CAMPAIGN[1:]:
        name = argument.names[-1].lstrip("-").replace("-", "_")
        options = argument.options
        setattr(args, name, options.get("default", False if "action" in options else None))
    args.driver = list(_DEMO)
    return _own(session, args, _DEMO)
