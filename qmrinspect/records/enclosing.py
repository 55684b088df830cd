"""What encloses an address
------------------------

The innermost object whose memory has a word: a device may embed some thousand irqs and
regions in front of a field.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

from ..snapshot import Obj, TypeInfo

__all__ = ["Enclosing"]


class Enclosing:
    """Finds the object that has an address; 0 when none does.

    :param types: what says how large the objects are.
    """

    def __init__(self, types: Mapping[str, TypeInfo], objects: Mapping[int, Obj]) -> None:
        self._objects, self._count = objects, len(objects)
        self._starts = sorted(objects)
        self._ends: list[int] = []
        self._reach: list[int] = []  # how far the objects up to one reach
        far = 0
        for start in self._starts:
            info = types.get(objects[start].type)
            end = start + info.size if info is not None else 0
            far = max(far, end)
            self._ends.append(end)
            self._reach.append(far)

    def fits(self, objects: Mapping[int, Obj]) -> bool:
        """Whether it knows just these objects: some may have been left out since."""
        return objects is self._objects and len(objects) == self._count

    def __call__(self, address: int) -> int:
        i = bisect_right(self._starts, address) - 1
        while i >= 0 and address < self._reach[i]:
            if address < self._ends[i]:
                return self._starts[i]
            i -= 1
        return 0
