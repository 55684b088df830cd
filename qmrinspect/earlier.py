"""What an earlier command learned
-------------------------------

The pages that a reading of a process needed are those that the next command's needs, and the
layout that fitted it fits it still.  Both are kept in the cache, by process; a reading does not
rely on them: pages that are missing are read as well, and a layout is tested for what is new.
"""

from __future__ import annotations

import contextlib
import json
from binascii import crc32
from collections.abc import Collection, Iterable
from itertools import chain
from pathlib import Path

from .layout import Layout
from .layout.find import cache_directory
from .layout.model import write_json
from .target.image import PAGE, Ranges, Target
from .target.memory import merged
from .target.proc import dead, stat
from .tuples import NamedTuple

__all__ = ["Earlier", "kept_at", "layout_id", "recall", "remember"]

# Of the fields of stat: when the process began (proc_pid_stat(5)), without its number and name.
_STARTED = 19
# No machine's structures fill more, 4 GiB.
_PAGES_MAX = 1 << 20
_BLOCKS_MAX = 100


class Earlier(NamedTuple):
    """What was learned of a process.

    :param layout: the :func:`layout_id` of the one that fitted.
    :param met: the QOM types of which instances were seen under it.
    :param pages: numbers of the pages that were needed.
    :param heap: numbers of those that tell live blocks of malloc from free ones, where many come
        and go: the next ``blocks`` readings read them in the stop.
    """

    layout: int
    met: frozenset[str]
    pages: frozenset[int]
    heap: frozenset[int] = frozenset()
    blocks: int = 0

    def has(self, other: Earlier) -> bool:
        """Whether all that ``other`` says is known."""
        same = self.layout == other.layout and self.blocks == other.blocks
        pages = self.pages >= other.pages and self.heap >= other.heap
        return same and pages and self.met >= other.met


def layout_id(layout: Layout) -> int:
    """Return a number that tells layouts from each other."""
    return crc32(repr((layout.source, layout.structs)).encode())


def kept_at(target: Target) -> Path:
    """Return where it is kept what was learned of a process.

    :raises OSError: there is no such process.
    """
    began = stat(target.pid)[_STARTED].decode()
    return cache_directory() / "processes" / f"{target.pid}-{began}-{target.elf().build_id()}.json"


def recall(target: Target) -> Earlier | None:
    """Return what earlier commands learned of a process, None for nothing."""
    if target.kind != "process":
        return None
    try:
        data = json.loads(kept_at(target).read_bytes())
        pages, heap = _numbers(data["pages"]), _numbers(data["heap"])
        met = frozenset(map(str, data["met"]))
        blocks = min(max(int(data["blocks"]), 0), _BLOCKS_MAX)
        return Earlier(int(data["layout"]), met, pages, heap, blocks)
    except (OSError, LookupError, ArithmeticError, TypeError, ValueError, RecursionError):
        return None


def remember(target: Target, earlier: Earlier) -> None:
    """Keep what was learned of a process; a cache that cannot be written is none.

    What is known of processes that have ended goes.
    """
    with contextlib.suppress(OSError, IndexError):
        path = kept_at(target)
        pages, heap = _runs(earlier.pages), _runs(earlier.heap)
        write_json(
            path, {**earlier._asdict(), "met": sorted(earlier.met), "pages": pages, "heap": heap}
        )
        for other in path.parent.glob("*.json"):
            pid = other.name.partition("-")[0]
            if pid.isdigit() and dead(int(pid)):
                other.unlink(missing_ok=True)


def _runs(pages: Collection[int]) -> Ranges:
    """Return (first, count) of pages that follow each other."""
    return [(start // PAGE, size // PAGE) for start, size in merged(sorted(pages))]


def _numbers(rows: Iterable[tuple[int, int]]) -> frozenset[int]:
    runs = [range(int(first), int(first) + int(count)) for first, count in rows]
    if sum(map(len, runs)) > _PAGES_MAX or any(run.start < 0 for run in runs):
        raise ValueError("these are no pages of a process")
    return frozenset(chain.from_iterable(runs))
