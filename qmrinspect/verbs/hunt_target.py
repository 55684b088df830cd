"""A hunt on a VM that somebody uses
---------------------------------

Nothing is restarted, and what leaks stays: so qmr says so before the first device is plugged.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from ..audit import book_of
from ..audit.known import known_trouble
from ..campaign.candidates import expanded
from ..errors import UsageError
from ..hotplug.recipes import recipe_for
from ..hunt.driver import Driver
from ..hunt.on_target import cycles_on
from ..report.verdicts import Result
from .verb import Session

__all__ = ["check_options", "on_target"]

# Options of hunts that start their own VMs.
_OF_OWN_VMS = (
    "qemu machine accel cpus jobs dask campaign bundle introspect policies builds error_paths"
).split()


def check_options(args: argparse.Namespace) -> None:
    """Refuse what a hunt on a VM that runs would ignore.

    :raises UsageError: names the first such option.
    """
    if not args.driver:
        raise UsageError(
            "on a VM that runs, name the devices to hunt", "virtio-net-pci, say, or 'virtio-*'"
        )
    for name in _OF_OWN_VMS:
        if getattr(args, name, None):
            raise UsageError(
                f"--{name.replace('_', '-')} is for hunts that start QEMU themselves, and this one "
                "is on a VM that runs",
                "leave it out, or leave out the target",
            )


def on_target(
    driver: Driver, args: argparse.Namespace, session: Session
) -> tuple[int, Iterator[Result]]:
    """Return how many cycles a hunt has, and what comes of them.

    :raises UsageError: there is no such device, or one is known to leak and nobody said yes.
    """
    names, known = driver.drive(lambda monitor: expanded(monitor, args.driver))
    policy = book_of(driver.read()).policy.name
    _warn(session, names, policy, args.yes)
    recipes = [recipe_for(name, known) for name in names]
    rows = cycles_on(driver, recipes, args, session.progress)
    return len(recipes) * args.cycles, (Result([row], True) for row in rows)


def _warn(session: Session, names: Sequence[str], policy: str, yes: bool) -> None:
    trouble = {name: known_trouble(name, policy) for name in names}
    crash = [name for name, what in trouble.items() if what == "crash"]
    leaks = [f"{name} ({what})" for name, what in trouble.items() if what and what != "crash"]
    session.say("a device that leaks stays in this VM for good: memory, id and all")
    if session.front == "gdb" or yes or not (crash or leaks):
        return
    what = [f"known to leak: {', '.join(leaks)}"] * bool(leaks)
    what += [f"known to crash QEMU: {', '.join(crash)}"] * bool(crash)
    if not session.confirm(f"{'; '.join(what)}. Hunt all the same?"):
        raise UsageError("; ".join(what), "--yes hunts all the same; what leaks stays for good")
