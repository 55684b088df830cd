"""One instant of a process that runs
----------------------------------

A stop lasts as long as what is read in it, so that it reads the pages that matter, and
all other memory is copied when the process runs again.  The image of both is of the
instant of the stop wherever it has the pages of the stop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable, Protocol, runtime_checkable

from ..tuples import NamedTuple
from .image import PAGE, Capture, Image, Mapping, Peek, Ranges, Target

__all__ = ["Choose", "Copy", "Frozen", "Stoppable", "numbers"]

Segments = list[tuple[int, memoryview]]
#: Says which ranges of some mappings are worth a copy.
Choose = Callable[[list[Mapping]], Ranges]


class Frozen(NamedTuple):
    """What was read while the process stood still.

    :param segments: (address, bytes), lowest first; they hold until the next stop.
    :param stop_us: how long it stood, microseconds.
    :param reads: system calls that read.
    :param quiet: whether the moment was one that is worth reading; if not, nothing was.
    :param stacks: see :class:`Image`.
    """

    segments: Segments
    stop_us: int
    reads: int
    quiet: bool
    stacks: list[int] | None = None

    def pages(self) -> set[int]:
        """Return the numbers of the pages that were read."""
        return numbers((start, len(data)) for start, data in self.segments)


class Copy(NamedTuple):
    """Memory that was copied while the process ran.

    :param segments: (address, bytes), lowest first; the bytes may be overwritten.
    :param absent: (address, size) of the pages that hold nothing, lowest first.
    :param writable: (address, size) of all memory that may change, lowest first.
    :param left_out: bytes that were too many to be copied.
    :param mappings: of the process, lowest first.
    """

    segments: Segments
    absent: Ranges
    writable: Ranges
    reads: int
    left_out: int
    mappings: list[Mapping]

    def patched(self, frozen: Frozen | None, static: Peek) -> Image:
        """Return the image of both; the copy itself is overwritten.

        :param static: as that of :class:`Image`.
        """
        extra: list[tuple[int, bytes]] = []
        i = 0
        for start, data in frozen.segments if frozen else ():
            at, end = start, start + len(data)
            while at < end:
                while i < len(self.segments) and _end(self.segments[i]) <= at:
                    i += 1
                low = self.segments[i][0] if i < len(self.segments) else end
                if low <= at:
                    stop = min(end, _end(self.segments[i]))
                    self.segments[i][1][at - low : stop - low] = data[at - start : stop - start]
                else:
                    # It was released, or taken for a free block, in the meantime.
                    stop = min(end, low)
                    extra.append((at, bytes(data[at - start : stop - start])))
                at = stop
        held = [(start, data.toreadonly()) for start, data in self.segments]
        image = Image([*held, *extra], static, self.absent, self.writable)
        image.mappings, image.left_out = self.mappings, self.left_out
        image.stacks = frozen.stacks if frozen else None
        return image


def _end(segment: tuple[int, memoryview]) -> int:
    return segment[0] + len(segment[1])


def numbers(ranges: Iterable[tuple[int, int]]) -> set[int]:
    """Return the numbers of the pages of (address, size) ranges."""
    out: set[int] = set()
    for start, size in ranges:
        out.update(range(start // PAGE, (start + size) // PAGE))
    return out


@runtime_checkable
class Stoppable(Target, Protocol):
    """A target that runs, and can be stopped for as long as a few pages take to read."""

    def capture_all(
        self, choose: Choose, quiet: Callable[[Peek], bool] | None = None
    ) -> tuple[Image, Capture]:
        """Stop, copy all memory that is worth it, let run; takes and raises as :meth:`freeze`.

        Where the moment was not quiet, the image is empty and ``Capture.quiescent`` false.
        """

    def freeze(self, ranges: Ranges, quiet: Callable[[Peek], bool] | None) -> Frozen:
        """Stop, read, let run.

        :param quiet: is asked first, in the stop; where it says no, nothing is read.
        :raises TargetError: when the process may not be stopped, or has ended.
        :raises NotStopping: when it does not stop; it runs on.
        """

    def glance(self, ranges: Ranges) -> Image:
        """Read without a stop; what comes back holds until the next glance."""

    def copy(self, choose: Choose) -> Copy:
        """Copy memory without a stop, but for what is free or was never touched.

        :raises TargetError: when the process may not be read, or has ended.
        """
