"""The life of an object
---------------------

What was recorded of one object since its birth, with the call stack of each change, and
whether it adds up to the count that was read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ..stacks.names import Frame, Names
from ..stacks.unwind import Stack, Unwinder
from .recorder import Event, Recording

__all__ = ["Life", "Reading", "Step", "life_of", "steps_of"]

# A structure that is worked on is known to the functions close by.
_NEAR = 8
_POINTER_MIN = 1 << 20
_WORD = struct.Struct("<Q")


class Reading(NamedTuple):
    """A count that was read, between ``begin`` and ``end``, which are as :attr:`Event.time`."""

    ref: int
    begin: int
    end: int


@dataclass(frozen=True)
class Step:
    """One change of the count, with its call stack."""

    event: Event
    stack: Stack
    _names: Names
    _sampled: Sequence[str]

    @cached_property
    def frames(self) -> Sequence[Frame]:
        """The functions, innermost first; what changes a count for others is left out."""
        frames = self._names.frames(self.stack.pcs)
        at = next(
            (i for i, f in enumerate(frames) if f.name not in _CHANGERS), max(0, len(frames) - 1)
        )
        return frames[at:]

    @cached_property
    def words(self) -> Mapping[int, int]:
        """Pointers in the registers and the frames close by, and how far away each was seen."""
        out: dict[int, int] = {}
        for name, value in zip(self._sampled, self.event.registers):
            if value >= _POINTER_MIN and name not in ("rip", "rsp", "eflags"):
                out.setdefault(value, 0)
        tops, raw = self.stack.tops, self.event.stack
        for depth in range(1, min(_NEAR, len(tops))):
            first, last = tops[depth - 1] - tops[0], min(tops[depth] - tops[0], len(raw))
            for at in range(max(0, first), last - 7, 8):
                value = _WORD.unpack_from(raw, at)[0]
                if value >= _POINTER_MIN:
                    out.setdefault(value, depth)
        return out


_CHANGERS = ("object_ref", "object_unref", "memory_region_ref", "memory_region_unref")


@dataclass(frozen=True)
class Life:
    """One object's changes.

    :param steps: since it was born, or since the recording began.
    :param born: whether the recording saw its birth.
    :param refused: why the steps do not explain the count; None when they do.
    """

    object: int
    count: int
    steps: Sequence[Step]
    born: bool
    refused: str | None

    @property
    def taken(self) -> int:
        """How many references were taken."""
        return sum(step.event.by or 0 for step in self.steps if step.event.takes)

    @property
    def dropped(self) -> int:
        """How many were dropped."""
        return -sum(step.event.by or 0 for step in self.steps if step.event.drops)


def life_of(
    recording: Recording,
    unwinder: Unwinder,
    names: Names,
    sampled: Sequence[str],
    address: int,
    reading: Reading,
    before: Reading | None = None,
) -> Life:
    """Put together what was recorded of an object.

    :param sampled: the names of the registers in a sample.
    :param reading: its count at the end.
    :param before: its count when the recording had begun, for one that was there already.
    """
    events = [e for e in recording.events.get(address, ()) if e.time <= reading.end]
    births = [i for i, event in enumerate(events) if event.old == 0 and event.takes]
    born = bool(births)
    if births:
        events = events[births[-1] :]
    elif before is not None:
        events = [event for event in events if event.time >= before.begin]
    refused = _refusal(recording, events, born, address, reading, before)
    steps = steps_of(events, unwinder, names, sampled)
    return Life(address, reading.ref, steps, born, refused)


def steps_of(
    events: Iterable[Event], unwinder: Unwinder, names: Names, sampled: Sequence[str]
) -> list[Step]:
    """Return changes with their call stacks."""
    steps = [
        Step(event, unwinder.unwind(event.registers, event.stack), names, sampled)
        if event.stack
        else Step(event, Stack((), (), "not kept"), names, sampled)
        for event in events
    ]
    names.learn_lines((pc, i == 0) for step in steps for i, pc in enumerate(step.stack.pcs))
    return steps


def _refusal(
    recording: Recording,
    events: Sequence[Event],
    born: bool,
    address: int,
    reading: Reading,
    before: Reading | None,
) -> str | None:
    """Say why nothing can be told of an object, None when it can."""
    if born:
        before = None  # what was there before had its memory
    elif before is None:
        if address in recording.older:
            return "it was born before the trace began"
        return "no change of its count was seen since the trace began: it was born before"
    changes = [event.by for event in events if event.by]
    if len(changes) < len(events):
        return "something else than a known take or drop wrote to its count"
    # What changes while the count is read may be before it or after.
    sums, total = set(), 0 if before is None else before.ref
    for event, by in zip(events, changes):
        if event.time > reading.begin:
            sums.add(total)
        if before is not None and event.time < before.end:
            return "its count changed at the moment when the trace began; try again"
        total += by
    sums.add(total)
    if reading.ref in sums:
        return None
    text = f"what was seen of it adds up to {total}, its count is {reading.ref}"
    if recording.lost:
        return f"{text}: {recording.lost} events were lost"
    if recording.unwatched:
        return f"{text}: {len(recording.unwatched)} places that may change it were not watched"
    if not recording.lost_counted:
        return f"{text}: events may have been lost, which this kernel does not count"
    return f"{text}: something that was not watched changes it"
