"""What readers are given
----------------------
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Callable

from ..records.context import Context
from ..records.ways import Found
from ..snapshot import Listener, Obj, Space
from ..target.image import Unreadable
from .ram import RamMap

__all__ = ["Objects", "ReaderFunction", "Scene", "WordsFunction", "attempt", "of_type"]

Objects = Mapping[int, Obj]


class Scene:
    """What was read before the declared holders are.

    :param lists: the scatter lists in use, (address, device), once they were looked for.
    :param requests: of NVMe controllers, found on the way.
    """

    def __init__(
        self,
        objects: Objects,
        spaces: Mapping[int, Space],
        listeners: Mapping[int, Listener],
        ram: RamMap,
    ) -> None:
        self.objects, self.spaces, self.listeners, self.ram = objects, spaces, listeners, ram
        self.lists: Sequence[tuple[int, int]] | None = None
        self.requests: Sequence[int] = ()


ReaderFunction = Callable[[Context, Scene], Iterator[Found]]
#: Says which words a reader searches memory for.
WordsFunction = Callable[[Context, Scene], Collection[int]]


def of_type(context: Context, objects: Objects, name: str) -> Iterator[int]:
    """Yield the objects of a QOM type, its subtypes included."""
    types = context.types_of(name)
    for address, obj in objects.items():
        if obj.type in types:
            yield address


def attempt(
    context: Context, addresses: Iterable[int], read: Callable[[int], Iterable[Found]]
) -> Iterator[Found]:
    """Read each of them; what cannot be read becomes a note and ends nothing else."""
    for address in addresses:
        try:
            yield from read(address)
        except Unreadable as error:
            context.note(address, f"a holder cannot be read at {error.args[0]:#x}")
