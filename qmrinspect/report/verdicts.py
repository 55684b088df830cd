"""The output of a hunt
--------------------

Prints every verdict as it is reached, as text or JSON Lines, then a summary; knows at
the end which findings are new, and so the exit code.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..audit.outcome import UNJUDGED
from ..documents import HuntRow
from ..errors import QmrError, UsageError
from ..hunt.rows import FORMAT, is_bad, is_new, key
from ..outfile import probe
from ..text import printable
from . import render
from .rows import verdict_lines

if TYPE_CHECKING:
    from ..campaign.expect import Expectations
    from ..campaign.jobs import Plan

__all__ = ["Result", "Verdicts"]


# One broken QEMU fails them all, for the same reason.
_FAILED_SHOWN = 5


class Result(NamedTuple):
    """What came of a job.

    :param fresh: whether it was done now, or is from the campaign's file.
    :param error: why it could not be done.
    """

    rows: Sequence[HuntRow]
    fresh: bool
    error: QmrError | None = None
    driver: str | None = None


class Verdicts:
    """The text, or the JSON, of a hunt, made as it goes.

    What it reads and writes is opened before the work begins.

    :param args: of the verb.
    :param plan: of a hunt on VMs of our own.
    :ivar total: how many jobs there are, or cycles on a VM that runs.
    """

    def __init__(self, args: argparse.Namespace, plan: Plan | None = None) -> None:
        self._args = args
        self.total = self._done = self._before = self._cycles = 0
        self._many = False
        self._left_out: Sequence[str] = ()
        self._models: set[str] = set()
        if plan is not None:
            self.follow(plan)
        probe(args.junit)
        self._alike: dict[tuple[str, ...], list[str]] = {}
        self._counts: Counter[str] = Counter()
        self._rows: list[HuntRow] = []
        self._failed: list[tuple[str | None, QmrError]] = []
        self._unpluggable = 0
        self._compared: dict[str, list[HuntRow]] | None = None
        self._expect: Expectations | None = None
        self._baseline: list[HuntRow] | None = None
        self._known: set[tuple[str, str, str]] = set()
        if args.expect:
            from ..campaign.expect import Expectations

            self._expect = Expectations(args.expect)
        if args.baseline:
            from ..campaign.store import baseline_rows

            self._baseline = baseline_rows(args.baseline)
            self._known = {key(row) for row in self._baseline if is_bad(row)}

    def follow(self, plan: Plan) -> None:
        """Take up what a hunt on VMs of our own is going to do."""
        self.total, self._left_out = len(plan.jobs), plan.models
        # Of many cycles of a device there is one row, or few.
        self._many = plan.settings.cycles > 1
        # Most CPU models end alike: of those the first is shown.
        jobs = plan.jobs if not self._args.driver else ()
        self._models = {job.driver for job in jobs if job.cpu}

    def so_far(self) -> str:
        """Say what is done, and how to go on."""
        done = f"{self._done} of {self.total} done"
        campaign = getattr(self._args, "campaign", "")
        if campaign:
            return f"{done}, and saved in {campaign}: the same command goes on with the others"
        return f"{done}; with --campaign FILE, the same command would go on where it was"

    def _take(self, results: Iterator[Result]) -> Iterator[HuntRow]:
        for result in results:
            if result.error is not None:
                self._failed.append((result.driver, result.error))
            self._done += 1
            self._before += 0 if result.fresh else len(result.rows)
            judged = [row for row in result.rows if _was_judged(row)]
            cycles = [row["cycle"] for row in judged if "error_path" not in row]
            self._cycles += max(cycles, default=0) if self._many else len(cycles)
            self._cycles += len(judged) - len(cycles)
            for row in result.rows:
                yield self._judge(row)
        if self._baseline is not None:
            from ..campaign.store import compare

            self._compared = compare(self._rows, self._baseline)
        if self._args.junit:
            from .junit import write_junit

            write_junit(self._args.junit, self._rows)

    def _judge(self, row: HuntRow) -> HuntRow:
        if is_bad(row):
            if self._expect is not None:
                reason = self._expect.match(row)
                if reason:
                    row["expected"] = reason
            if self._baseline is not None:
                row["status"] = "known" if key(row) in self._known else "new"
        if not row.get("hotpluggable", True):
            self._unpluggable += 1
        else:
            self._counts[row["outcome"]] += 1
        # A thousand cycles need not be kept for what comes at the end.
        if row["cycle"] == 1 or row["outcome"] != "clean" or "growth" in row:
            self._rows.append(row)
        return row

    def documents(self, results: Iterator[Result]) -> Iterator[object]:
        """Yield the rows as they come, then the summary; the work is done meanwhile."""
        yield from self._take(results)
        summary: dict[str, object] = {"format": FORMAT, "summary": dict(self._counts)}
        summary["not_hotpluggable"] = self._unpluggable
        if self._before:
            summary["from_before"] = self._before
        if self._left_out:
            summary["cpu_models_left_out"] = list(self._left_out)
        if self._compared is not None:
            summary["compared"] = {
                name: [list(key(row)) for row in rows] for name, rows in self._compared.items()
            }
        if self._expect is not None:
            summary["expectations"] = self._expect.summary()
        if self._failed:
            summary["not_done"] = [
                {"device": driver or "", "error": str(error)} for driver, error in self._failed
            ]
        yield summary

    def lines(self, results: Iterator[Result]) -> Iterator[str]:
        """Yield the same for people."""
        for row in self._take(results):
            # What was named is answered for.
            if (row.get("hotpluggable", True) or self._args.driver) and not self._was_shown(row):
                yield from verdict_lines(row)
        for first, *others in self._alike.values():
            if others:
                yield f"{render.plural(len(others), 'more CPU model')} as {first}"
        # Where QEMU refused, there was no cycle of a plug and an unplug.
        cycles = {o: n for o, n in sorted(self._counts.items()) if o != "refused"}
        parts = ", ".join(f"{n} {outcome}" for outcome, n in cycles.items())
        refused = f"; {self._counts['refused']} refused" if self._counts["refused"] else ""
        rows = render.plural(sum(cycles.values()), "verdict")
        of = f", {rows}" if self._many else ""
        done = render.plural(self._cycles, "cycle")
        yield f"{done}{of}: {parts or 'nothing was judged'}{refused}"
        if self._before:
            verb = "is" if self._before == 1 else "are"
            yield (
                f"{render.plural(self._before, 'row')} of them {verb} from before: "
                f"{self._args.campaign} had {'it' if self._before == 1 else 'them'}"
            )
        if self._unpluggable:
            yield (
                f"{self._unpluggable} more that this QEMU does not mark hotpluggable, or has no "
                "hotpluggable bus for"
            )
        if self._left_out:
            yield f"{len(self._left_out)} CPU models that need a VM of their own: see --cpus"
        yield from self._comparison()
        for driver, error in self._failed[:_FAILED_SHOWN]:
            yield f"{printable(driver or '?')} was not done: {error}"

    def _was_shown(self, row: HuntRow) -> bool:
        """Whether a row is of a CPU model, and one that ended alike was shown."""
        if row["device"] not in self._models:
            return False
        names = self._alike.setdefault((row["outcome"], *row["causes"]), [])
        names.append(printable(row["device"]))
        return len(names) > 1

    def _comparison(self) -> Iterator[str]:
        if self._compared is not None:
            parts = [f"{len(rows)} {name}" for name, rows in self._compared.items()]
            yield f"against {self._args.baseline}: {', '.join(parts)}"
            for name in ("new", "fixed"):
                for row in self._compared[name]:
                    yield f"    {name}: {row['device']} {' '.join(key(row)[1:])}".rstrip()
        for rule in self._expect.summary() if self._expect is not None else ():
            if not rule["hits"]:
                what = " ".join(str(v) for k, v in rule.items() if k not in ("reason", "hits"))
                yield f"no finding matches the rule {what!r}: {rule['reason']}"

    def failed(self) -> bool:
        """Whether there are findings that are neither known nor expected.

        :raises QmrError: not all could be done.
        """
        if self._failed:
            _, first = self._failed[0]
            raise QmrError(
                f"{render.plural(len(self._failed), 'job')} could not be done: {first.text}",
                "run it again; a campaign goes on with what is left"
                if self._args.campaign
                else first.hint,
            )
        if self._rows and not any(row["outcome"] not in UNJUDGED for row in self._rows):
            raise UsageError(
                f"nothing was judged: {', '.join(sorted({r['outcome'] for r in self._rows}))}",
                "the rows say why; name other devices, or another --machine",
            )
        return any(is_new(row) for row in self._rows)


def _was_judged(row: HuntRow) -> bool:
    """Whether a row tells of a plug and an unplug; where QEMU refused, there was none."""
    return row.get("hotpluggable", True) and row["outcome"] != "refused"
