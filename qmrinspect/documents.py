"""Documents
---------

The parts of ``qmr-hunt/1`` and its relatives that are read again after they were made, as
types.  Addresses are text (``"0x7f..."``), times are microseconds.
"""

from __future__ import annotations

from typing import TypedDict

__all__ = [
    "AssertionJson",
    "BalanceJson",
    "CaseJson",
    "DrawnJson",
    "EdgeJson",
    "ErrorPathJson",
    "ForecastDocument",
    "ForecastJson",
    "ForetoldJson",
    "GrownJson",
    "GrowthJson",
    "HuntRow",
    "LeftJson",
    "ObjectJson",
    "PluggedJson",
    "ProspectJson",
    "ReadJson",
    "RegionJson",
    "StaleJson",
    "StatesJson",
    "TieJson",
    "TreeJson",
]


class EdgeJson(TypedDict, total=False):
    """A reference; a hunt's have a ``holder_label`` as well."""

    kind: str
    count: int
    holder: str
    owner: str
    holder_path: str
    holder_label: str
    field: str
    rule: str
    target: str


class ObjectJson(TypedDict):
    """An object."""

    address: str
    type: str
    path: str
    id: str


class LeftJson(TypedDict, total=False):
    """An object that remains; ``was`` is its path while the device was plugged.

    ``undropped`` has the references that the device held on it and did not drop as it went.
    """

    address: str
    type: str
    was: str
    observed: int
    expected: int
    references: list[EdgeJson]
    undropped: list[EdgeJson]
    way_back: list[EdgeJson]


class CaseJson(TypedDict, total=False):
    """A cause with the references that make the case."""

    cause: str
    object: str
    text: str
    references: list[EdgeJson]
    way_back: list[EdgeJson]


class DrawnJson(TypedDict, total=False):
    """What a page draws of a finding: a part of :class:`HuntRow`."""

    objects_left: list[LeftJson]
    case: list[CaseJson]


class StaleJson(TypedDict):
    """A callback that outlives what it needs."""

    kind: str
    address: str
    function: str
    target: str
    freed: bool
    text: str


class RegionJson(TypedDict):
    """A memory region; ``owner`` is what people call it."""

    address: str
    name: str
    owner: str


class AssertionJson(TypedDict):
    """An assertion of QEMU's that would fail."""

    function: str
    expression: str
    region: RegionJson
    others: list[RegionJson]


class ForecastJson(TypedDict):
    """What one policy makes of an unplug; ``outcome`` is None where that is open."""

    policy: str
    source: str
    outcome: str | None
    cause: str
    text: str
    assertion: AssertionJson | None
    left: list[LeftJson]


class ProspectJson(ForecastJson, total=False):
    """What one policy makes of a device, and between what it lies while it is plugged."""

    certainty: str
    if_nothing: ForecastJson
    if_everything: ForecastJson


class TieJson(TypedDict):
    """What an unrealize may end, and what decides the outcome therefore."""

    kind: str
    key: list[object]
    region: str
    container: str
    text: str


class ForecastDocument(TypedDict):
    """One object of ``qmr-forecast/1``."""

    object: ObjectJson
    source: str
    policies: list[ProspectJson]
    decides: list[TieJson]


class PluggedJson(TypedDict):
    """What was said of a device while it was plugged."""

    policy: str
    certainty: str
    outcome: str | None


class ForetoldJson(TypedDict):
    """The forecasts of one cycle."""

    source: str
    policies: list[ForecastJson]
    left: list[ForecastJson]
    outlived: list[list[object]]
    plugged: list[PluggedJson]


class GrownJson(TypedDict):
    """How a count grew."""

    total: int
    once: int | float
    per_cycle: int | float
    exact: bool


class GrowthJson(TypedDict):
    """What grew over the cycles; a sample is cycle, objects, references."""

    cycles: int
    types: dict[str, GrownJson]
    references: dict[str, GrownJson]
    samples: list[list[int]]


class StatesJson(TypedDict):
    """When an unplug came how far; 0 where it did not."""

    requested_us: int
    acknowledged_us: int
    unparented_us: int
    finalized_us: int


class TreeJson(TypedDict):
    """Who took and who dropped references, a node of a tree of calls."""

    function: str
    text: str
    taken: int
    dropped: int
    below: list[TreeJson]


class BalanceJson(TypedDict, total=False):
    """What is drawn of an object of ``qmr-trace/1``."""

    address: str
    type: str
    path: str
    tree: list[TreeJson]


class ReadJson(TypedDict, total=False):
    """What was read for a row, when, and by which qmr."""

    qmr: str
    host: str
    pid: int
    exe: str
    command: str
    at_us: int


class ErrorPathJson(TypedDict, total=False):
    """A way in which ``device_add`` was refused.

    :ivar property: what was changed; ``value`` is what it was given, None for nothing.
    :ivar why: what is wrong with it; ``message`` is QEMU's words.
    :ivar also: the ways that ended with the same words.
    :ivar after: the ways that came before where QEMU dies of this one: it does not of it alone.
    """

    property: str
    value: object
    why: str
    message: str
    also: list[str]
    after: list[str]


class GroupJson(TypedDict):
    """Blocks of memory that stay with every cycle, under the one that leads to the others."""

    blocks: int
    bytes: int
    head: str
    what: str
    reached: str
    text: str


class MemoryJson(TypedDict):
    """What memory stays with every cycle."""

    cause: str
    blocks: int
    bytes: int
    groups: list[GroupJson]


class HuntRow(TypedDict, total=False):
    """One line of ``qmr-hunt/1``.

    Rows of older campaigns lack some keys; what follows ``text`` is there where it applies.
    """

    format: str
    device: str
    bus: str
    machine: str
    outcome: str
    cause: str
    causes: list[str]
    cycle: int
    objects_left: list[LeftJson]
    case: list[CaseJson]
    stale: list[StaleJson]
    candidates: list[StaleJson]
    event: bool
    acknowledged_by: str
    states: StatesJson
    plug_us: int
    unplug_us: int
    judge_us: int
    step: str
    hotpluggable: bool
    outside: str
    kept: list[str]
    used_by_guest: list[str]
    qemu_version: str
    build_id: str
    policy: str
    read: ReadJson
    under: dict[str, str]
    forecast: ForetoldJson | None
    text: str
    note: str
    after: list[str]
    backtrace: list[str]
    bundle: str
    emulator: str
    growth: GrowthJson
    memory: MemoryJson
    error_path: ErrorPathJson | None
    tried: int
    trace: dict[str, object]
    expected: str
    status: str
    build: str
