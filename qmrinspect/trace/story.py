"""Telling who took
----------------
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..stacks.names import Frame
from ..text import printable
from .life import Step
from .match import Balance

__all__ = ["chain", "path_of", "taken_text", "taker", "takers_text", "unexplained_text"]

_CHAIN = 5
_SHOWN_MAX = 3

# What brings a thread to its work: event loops, coroutines, threads.
_LOOP = re.compile(
    r"^(_start|main|clone3?|start_thread|qemu_thread_start|qemu_main|qemu_main_loop"
    r"|qemu_default_main|main_loop_wait|os_host_main_loop_wait|glib_pollfds_poll|aio_[a-z_]+"
    r"|g_main_[a-z_]+|do_qmp_dispatch_bh|coroutine_trampoline|coroutine_wrapper|__libc_[a-z_]+"
    r"|makecontext|iothread_run|call_rcu_thread_start)$"
)
# How a property is set and an object made: the same on every way to a device's own code.
_PASSAGE = re.compile(
    r"^(object_property_(set|parse)[a-z_]*|property_set_[a-z0-9_]+|device_set_realized"
    r"|qdev_realize[a-z_]*|object_init_with_type|object_initialize[a-z_]*|object_new[a-z_]*"
    r"|object_apply_[a-z_]*|object_set_propv|object_set_prop[a-z_]*)$"
)


def taker(step: Step) -> Frame | None:
    """Return the innermost function that is not QEMU's own machinery of objects and regions."""
    frames = step.frames
    return next((f for f in frames if not f.plumbing), frames[0] if frames else None)


def taken_text(step: Step) -> str:
    """Return where a reference was taken: a function, its line, and for a nameless one a caller."""
    return _places([step])[0]


def takers_text(steps: Iterable[Step]) -> str | None:
    """Return the places where references that remain were taken, None for none."""
    places = _places(steps)
    if not places:
        return None
    more = f" and in {len(places) - _SHOWN_MAX} more places" if len(places) > _SHOWN_MAX else ""
    return f"taken in {' and in '.join(places[:_SHOWN_MAX])}{more}, never dropped"


def _places(steps: Iterable[Step]) -> list[str]:
    """Return functions with the lines in them, each function once."""
    lines: dict[tuple[str, str, str], set[int]] = {}
    for step in steps:
        frame = taker(step)
        if frame is None:
            lines.setdefault(("an unknown place", "", ""), set())
            continue
        key = printable(frame.name), printable(frame.file or ""), _caller(step, frame)
        lines.setdefault(key, set()).update([] if frame.line is None else [frame.line])
    out = []
    for (name, file, caller), numbers in lines.items():
        at = f" ({file}:{', '.join(map(str, sorted(numbers)))})" if numbers else ""
        out.append(f"{name}{at}{caller}")
    return out


def _caller(step: Step, frame: Frame) -> str:
    """Return who called a nameless function, as far as that has a name."""
    if frame.how != "address":
        return ""
    outer = step.frames[step.frames.index(frame) + 1 :]
    named = next((f for f in outer if f.how != "address" and not f.plumbing), None)
    return f", called by {printable(named.text())}" if named is not None else ""


def chain(step: Step, limit: int = _CHAIN) -> str:
    """Return the call stack from the innermost function outwards in one line."""
    names = [f.text() for f in path_of(step.frames)[::-1] if not _is_passage(f)]
    more = " < ..." if len(names) > limit else ""
    return printable(" < ".join(names[:limit]) or "an unknown place", 4000) + more


def path_of(frames: Sequence[Frame], all: bool = False) -> list[Frame]:
    """Return the functions from the first that does the work down to the innermost.

    :param all: leave nothing out.
    """
    outward = list(frames)
    if not all:
        loop = next((i for i, f in enumerate(outward) if _LOOP.match(f.name)), len(outward))
        # What a loop calls has no name of its own often, and says little.
        while loop > 1 and outward[loop - 1].how == "address":
            loop -= 1
        kept = outward[:loop] or outward[:1]
        outward = [f for i, f in enumerate(kept) if not i or not _is_passage(f)]
    return outward[::-1]


def _is_passage(frame: Frame) -> bool:
    return bool(_PASSAGE.match(frame.name)) or (frame.plumbing and frame.how == "address")


def unexplained_text(one: Balance) -> str | None:
    """Return who took what nothing known holds, None when that is not known."""
    if one.choice is not None:
        return f"taken in one of {' or '.join(_places(one.unexplained))}, never dropped"
    return takers_text(one.unexplained)
