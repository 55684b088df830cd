"""Campaigns
---------

Many jobs on many VMs: planned from what QEMU has, done by workers in parallel, kept
as they are done.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple

from ..documents import HuntRow
from ..errors import QmrError, TargetError
from ..hotplug.recipes import START_OPTIONS, recipe_for, vm_arguments
from ..hotplug.vm import Vm
from ..hunt.pool import VmPool
from ..hunt.settings import Job, Settings
from ..reading import Reader
from ..target.process import Process
from .candidates import candidates, fitting
from .worker import Worker, WorkerDied

__all__ = ["Done", "Plan", "plan", "run"]

# Seconds that a cycle may take at most before its worker is given up: the longest
# is one in which every step hangs, tried again alone.
_CYCLE_S = 120.0
_DEEP_S = 400.0  # more, where hundreds of cycles or properties tell
_GUEST_S = 120.0  # more, where it has to boot and to act

_ATTEMPTS = 2

# With room for a CPU, so that the machine says which it takes.
_PLANNING = ("-smp", "1,maxcpus=2")
# The start options that go together.
_SHARED = [option for option in START_OPTIONS if not option.exclusive]


class Plan(NamedTuple):
    """What a campaign does.

    :param models: CPU models that it leaves out.
    """

    settings: Settings
    jobs: Sequence[Job]
    models: Sequence[str] = ()


class Done(NamedTuple):
    """A job that was done; ``number`` is its place in the plan.

    :param error: why it could not be done; then there are no rows.
    """

    number: int
    job: Job
    rows: Sequence[HuntRow]
    error: QmrError | None = None


def plan(settings: Settings, names: Sequence[str], cpus: bool = False) -> Plan:
    """Ask QEMU for its candidates, or check the names that were given.

    :param cpus: hunt every CPU model, each in a VM of its own kind.
    :raises UsageError: QEMU has no such driver.
    :raises TargetError: it does not start, or cannot be read.
    :raises LayoutError: no layout fits it.
    """
    with (
        Vm(settings.qemu, settings.machine, settings.accel, _PLANNING) as vm,
        vm.monitor() as monitor,
    ):
        found = candidates(monitor)
        # What cannot be read ends here, not in each of hundreds of VMs.
        process = Process(vm.pid)
        try:
            Reader(process, given=settings.layout).read()
        finally:
            process.close()
    models = {_model(name): name for name in found.models}
    jobs = [Job(name) for name in found.names if settings.has_cycles() or ":" not in name]
    cpus = cpus and settings.has_cycles()
    if not names:
        if cpus:
            jobs += [Job(name, model) for model, name in sorted(models.items())]
        settings = settings._replace(start_options=_usable(settings))
        return Plan(settings, jobs, () if cpus else found.models)
    jobs = []
    needed: set[str] = set()
    for name in fitting(names, [*found.names, *found.models], found.known):
        recipe = recipe_for(name, found.known)
        needed |= recipe.needs
        jobs.append(Job(name, _model(name) if name in found.models else None))
    options = tuple(option.name for option in _SHARED if option.name in needed)
    # All that a QEMU has would take half as long again.
    return Plan(settings._replace(start_options=options, sure=True), jobs)


def _usable(settings: Settings) -> tuple[str, ...]:
    """Return the start options that this QEMU takes: a build need not have all."""
    options = _SHARED
    while True:
        names = tuple(option.name for option in options)
        words = vm_arguments(("PCI", *names), settings.machine)
        try:
            with Vm(settings.qemu, settings.machine, settings.accel, words):
                return names
        except TargetError as error:
            # QEMU quotes the argument that it does not like.
            refused = [option for option in options if _quoted(option.arguments, error.text)]
            if not refused:
                raise
            options = [option for option in options if option not in refused]


def _quoted(arguments: Sequence[str], text: str) -> bool:
    options = zip(arguments[::2], arguments[1::2])
    return any(f"{option} {value}:" in text for option, value in options)


def _model(driver: str) -> str:
    # "qemu64-x86_64-cpu" is made by -cpu qemu64.
    return driver.rsplit("-", 2)[0]


def run(settings: Settings, jobs: Sequence[tuple[int, Job]], workers: int = 1) -> Iterator[Done]:
    """Do jobs and yield what came of them, in the order in which they end.

    A job whose worker dies is done again by another one, once.

    :param jobs: with their numbers in the plan.
    :param workers: how many processes; with one, this process does the work itself.
    """
    if workers <= 1 or len(jobs) <= 1:
        yield from _here(settings, jobs)
        return
    todo: queue.Queue[tuple[int, Job, int]] = queue.Queue()
    done: queue.Queue[Done | None] = queue.Queue()
    stop = threading.Event()
    for number, job in jobs:
        todo.put((number, job, 1))
    timeout = _CYCLE_S + 10.0 * settings.cycles
    if settings.cycles > 1 or settings.sure:
        timeout += _DEEP_S
    if settings.error_paths:
        timeout += _DEEP_S
    if settings.guest is not None:
        timeout += _GUEST_S
    threads = [
        threading.Thread(target=_serve, args=(settings, todo, done.put, stop, timeout), daemon=True)
        for _ in range(min(workers, len(jobs)))
    ]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            one = done.get()
            if one is None:
                running -= 1
            else:
                yield one
    finally:
        stop.set()
        for thread in threads:
            thread.join(10.0)


def _here(settings: Settings, jobs: Sequence[tuple[int, Job]]) -> Iterator[Done]:
    with VmPool(settings) as pool:
        for number, job in jobs:
            try:
                yield Done(number, job, list(pool.do(job)))
            except QmrError as error:
                pool.close()
                yield Done(number, job, (), error)


def _serve(
    settings: Settings,
    todo: queue.Queue[tuple[int, Job, int]],
    put: Callable[[Done | None], None],
    stop: threading.Event,
    timeout: float,
) -> None:
    """Feed one worker until nothing is left to do."""
    worker: Worker | None = None
    try:
        while not stop.is_set():
            try:
                number, job, attempt = todo.get_nowait()
            except queue.Empty:
                return
            try:
                worker = worker or Worker(settings)
                put(Done(number, job, list(worker.do(job, timeout))))
            except WorkerDied as error:
                if worker is not None:
                    worker.close()
                worker = None
                if attempt < _ATTEMPTS:
                    todo.put((number, job, attempt + 1))
                else:
                    put(Done(number, job, (), error))
            except QmrError as error:
                put(Done(number, job, (), error))
    finally:
        if worker is not None:
            worker.close()
        put(None)
