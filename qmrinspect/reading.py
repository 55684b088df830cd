"""Reading a QEMU
--------------

From a target to a snapshot that can be trusted: the layouts worth trying are
tried until one is found under which the picture is free of contradictions.
"""

from __future__ import annotations

from typing import Iterable

from .errors import LayoutError, ReadingError
from .layout import Layout
from .layout.find import candidates
from .snapshot import Snapshot
from .target.image import Target
from .walk import take, version_of
from .walk.validate import fits, validate

__all__ = ["Reader", "read"]


class Reader:
    """Reads one target again and again, under the layout that fitted first.

    :param target: what to read.
    :param layouts: tried before the known ones; a GDB that has debug information
        gives its own.
    """

    def __init__(self, target: Target, layouts: Iterable[Layout] = ()) -> None:
        self.target = target
        self._layouts = tuple(layouts)
        self._fitting: Layout | None = None

    def read(self) -> Snapshot:
        """Take a snapshot.

        :raises TargetError: when the target cannot be read.
        :raises LayoutError: when no known layout fits; the text says why each does not.
        :raises ReadingError: when the one that fitted before no longer does.
        """
        if self._fitting is not None:
            return take(self.target, self._fitting)
        refused = []
        for layout in self._candidates():
            try:
                snapshot = take(self.target, layout)
            except (LayoutError, ReadingError) as error:
                refused.append(f"{layout.source}: {error.text}")
                continue
            checks = validate(snapshot)
            if fits(checks):
                self._fitting = layout
                return snapshot
            worst = next((c for c in checks if not c.ok), checks[0])
            refused.append(f"{layout.source}: {worst.name}: {worst.detail}")
        raise LayoutError(
            f"no known layout fits {self.target.exe} ({'; '.join(refused)})",
            "give qmr a QEMU with debug information, or make a profile with tools/make_profile.py",
        )

    def _candidates(self) -> Iterable[Layout]:
        yield from self._layouts
        elf = self.target.elf()
        yield from candidates(elf, self.target.program(), version_of(elf))


def read(target: Target) -> Snapshot:
    """Take one snapshot of a target.  Raises as :meth:`Reader.read` does."""
    return Reader(target).read()
