"""Growth from cycle to cycle
--------------------------

Counts the objects by type and the references by kind after each cycle, and tells
what came once from what comes again every time.
"""

from __future__ import annotations

from collections import Counter

from ..documents import GrownJson, GrowthJson
from ..ledger import Book
from .cause import unheld

__all__ = ["GROWS", "SURE", "Growth"]

#: The cause of a leak that balances.
GROWS = "grows-in-tree"
#: Cycles from which on growth with every one of them is a verdict.
SURE = 3
_PATHS_SHOWN = 3
# So many samples are kept for the plot, however many cycles there are.
_SAMPLES = 100


class Growth:
    """The counts of one VM before the first cycle and after each."""

    def __init__(self) -> None:
        self.cycles = 0
        self._books: tuple[Book, Book] | None = None
        self._first: dict[str, Counter[str]] = {}
        self._last: dict[str, Counter[str]] = {}
        self._after_one: dict[str, Counter[str]] = {}
        self._steps: dict[str, dict[str, set[int]]] = {"types": {}, "references": {}}
        self._samples: list[tuple[int, int, int]] = []
        self._stride = 1

    def begin(self, book: Book) -> None:
        """Count before the first cycle."""
        self._books = (book, book)
        self._first = self._last = self._after_one = _counts(book)
        self._sample()

    def add(self, book: Book) -> None:
        """Count after a cycle."""
        now = _counts(book)
        assert self._books is not None
        self._books = (self._books[0], book)
        self.cycles += 1
        if self.cycles == 1:
            self._after_one = now
        else:
            for what, steps in self._steps.items():
                for name in now[what].keys() | self._last[what].keys():
                    steps.setdefault(name, set()).add(now[what][name] - self._last[what][name])
        self._last = now
        self._sample()

    def _sample(self) -> None:
        if self.cycles % self._stride == 0:
            objects = sum(self._last["types"].values())
            references = sum(self._last["references"].values())
            self._samples.append((self.cycles, objects, references))
        if len(self._samples) > _SAMPLES:
            self._samples = self._samples[::2]
            self._stride *= 2

    def summary(self) -> GrowthJson:
        """Return what grew: ``once``, and ``per_cycle`` from the second cycle on.

        ``exact`` says that every cycle from the second on added the same.
        """
        return {
            "cycles": self.cycles,
            "types": self._grown("types"),
            "references": self._grown("references"),
            "samples": [list(sample) for sample in self._samples],
        }

    def stays(self) -> tuple[str, str] | None:
        """Return the cause and a sentence on the objects that stay with every cycle, if any do.

        What came once, or is used again, is none; only so many cycles tell.  The backends of
        the last cycle are still in the tree: they go after the reading.
        """
        if self.cycles < SURE or self._books is None:
            return None
        first, book = self._books
        index = book.index
        inside, outside = [], list[str]()
        for name, grown in self._grown("types").items():
            each = grown["per_cycle"]
            if not grown["exact"] or each < 1:
                continue
            objects = index.snapshot.objects
            old = first.index.snapshot.objects
            new = [a for a in sorted(objects) if objects[a].type == name and a not in old]
            paths = [index.path(a) for a in new if index.in_tree(a)]
            if len(paths) > each:
                more = f" and {len(paths) - _PATHS_SHOWN} more" if len(paths) > _PATHS_SHOWN else ""
                inside.append(
                    f"{each} {name} more is in the tree after every cycle: "
                    f"{', '.join(paths[:_PATHS_SHOWN])}{more}"
                )
                continue
            lost = [a for a in new if not index.in_tree(a) and book.residual(a) > 0]
            if lost:
                said = unheld(book, lost[0])
                outside.append(f"{each} {name} more is left by every cycle: {said}")
        if inside:
            return GROWS, "; ".join(inside)
        return ("unbalanced", "; ".join(outside)) if outside else None

    def _grown(self, what: str) -> dict[str, GrownJson]:
        out: dict[str, GrownJson] = {}
        first, one, last = self._first[what], self._after_one[what], self._last[what]
        for name in sorted(first.keys() | last.keys()):
            total = last[name] - first[name]
            if not total or not self.cycles:
                continue
            later = self.cycles - 1
            grown = last[name] - one[name]
            each = grown / later if later else total
            steps = self._steps[what].get(name, {0})
            whole = int(each) if each == int(each) else round(each, 3)
            once = one[name] - first[name] - whole if later else 0
            out[name] = {
                "total": total,
                "once": once,
                "per_cycle": whole,
                "exact": len(steps) == 1,
            }
        return out


def _counts(book: Book) -> dict[str, Counter[str]]:
    objects = book.index.snapshot.objects
    return {
        "types": Counter(obj.type for obj in objects.values()),
        "references": Counter(edge.kind for edge in book.edges if edge.target in objects),
    }
