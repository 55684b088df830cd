"""The part of QOM that needs no inference
----------------------------------------

``Object``, ``ObjectClass``, ``TypeImpl``, ``ObjectProperty`` and ``LinkProperty`` have been
the same from QEMU 5.2 to 11.1.  With them the types, the objects and the properties of
a process are read before anything else is known of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import LayoutError, ReadingError
from ..layout import Layout
from ..records.context import Context, Statics
from ..snapshot import Obj, Prop
from ..target.image import Image, Unreadable
from ..target.image import Mapping as MemoryMapping
from ..walk import qom
from ..walk.classes import Classes, read_classes
from ..walk.take import open_context

__all__ = ["CORE", "Core", "FilePages", "open_core"]

#: The structures whose layout is taken as it is in every profile.
CORE = ("Object", "ObjectClass", "TypeImpl", "ObjectProperty", "LinkProperty")


class FilePages:
    """The constants and variables of a program and its modules, without their code.

    :param mappings: of the process.
    """

    def __init__(self, mappings: Sequence[MemoryMapping]) -> None:
        spans = sorted(
            (m.start, m.end) for m in mappings if m.path.startswith("/") and "x" not in m.perms
        )
        self._starts = [start for start, _ in spans]
        self._ends = [end for _, end in spans]

    def __contains__(self, address: int) -> bool:
        i = bisect_right(self._starts, address) - 1
        return i >= 0 and address < self._ends[i]


class Core(NamedTuple):
    """Types, objects and properties of one image.

    :param context: under a layout of which only :data:`CORE` may be relied on.
    :param properties: of each type's class, as (name, release, opaque).
    """

    context: Context
    classes: Classes
    objects: Mapping[int, Obj]
    props: Sequence[Prop]
    pages: FilePages

    @property
    def image(self) -> Image:
        """The image it was read from."""
        return self.context.image

    def of_type(self, name: str) -> list[int]:
        """Return the objects of a QOM type and of those that derive from it."""
        is_a = self.context.is_a
        return [address for address, obj in self.objects.items() if is_a(obj.type, name)]


def open_core(
    image: Image, statics: Statics, start: Layout, mappings: Sequence[MemoryMapping]
) -> Core:
    """Read the QOM part of an image.

    :param start: a complete layout, of any QEMU.
    :raises LayoutError: when even this part of QOM does not come out.
    """
    context, machine = open_context(image, start, statics)
    try:
        root = qom.find_root(context, machine)
        classes = read_classes(context)
        context.handles = qom.find_handles(context, classes, root)
        objects = qom.read_objects(context, classes)
        props = tuple(qom.read_props(context, classes, objects))
    except Unreadable as error:
        raise LayoutError(f"the QOM tree leads out of memory at {error.args[0]:#x}") from None
    except ReadingError as error:
        raise LayoutError(f"nothing can be inferred: {error.text}", error.hint) from None
    return Core(context, classes, objects, props, FilePages(mappings))
