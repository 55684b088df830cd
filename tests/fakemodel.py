"""What a fake machine consists of
--------------------------------
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["FakeKid", "FakeObject", "FakeSpace", "FakeView"]


@dataclass(eq=False)
class FakeObject:
    """An object of the model; what only some types have is empty for the others."""

    address: int
    type: str
    size: int
    ref: int = 1
    heap: bool = True
    parent: FakeObject | None = None
    children: dict[str, FakeObject] = field(default_factory=dict)
    links: dict[str, tuple[FakeObject, int]] = field(default_factory=dict)
    fields: dict[tuple[str, str], int] = field(default_factory=dict)
    used: int = 0x400
    id: str = ""
    name: str = ""
    bus: FakeObject | None = None
    kids: list[FakeKid] = field(default_factory=list)
    gpios: list[tuple[int, str, list[FakeObject]]] = field(default_factory=list)
    clocks: list[tuple[int, str, FakeObject, bool, bool]] = field(default_factory=list)
    resets: list[FakeObject] = field(default_factory=list)
    owner: FakeObject | None = None
    container: FakeObject | None = None
    alias: FakeObject | None = None
    subregions: list[FakeObject] = field(default_factory=list)
    addr: int = 0
    extent: int = 0x1000


@dataclass(eq=False)
class FakeKid:
    """A ``BusChild``."""

    address: int
    child: FakeObject
    index: int


@dataclass(eq=False)
class FakeView:
    """A ``FlatView``."""

    address: int
    root: FakeObject
    ranges: list[FakeObject]
    sections: list[FakeObject]
    ref: int = 1


@dataclass(eq=False)
class FakeSpace:
    """An ``AddressSpace``."""

    address: int
    name: str
    root: FakeObject
    view: FakeView
    listeners: list[tuple[int, str]] = field(default_factory=list)
