"""Traces for programs
-------------------

``qmr-trace/1``.
"""

from __future__ import annotations

from ..ledger import Book
from ..ledger.documents import edge_json
from ..stacks.names import Frame
from .life import Step
from .match import Balance, step_kinds
from .recorder import Recording
from .story import taken_text, unexplained_text
from .tree import balance_tree, tree_json

__all__ = ["FORMAT", "balance_json", "recording_json", "step_json"]

FORMAT = "qmr-trace/1"


def recording_json(recording: Recording) -> dict[str, object]:
    """Return how a trace was made."""
    return {
        "method": recording.method,
        "places": [f"{s.module.name}+{s.write.address:#x}" for s in recording.sites],
        "not_watched": [f"{s.module.name}+{s.write.address:#x}" for s in recording.unwatched],
        "seen": recording.seen,
        "lost": recording.lost,
        "lost_counted": recording.lost_counted,
        "wall_us": (recording.end - recording.begin) // 1000,
    }


def balance_json(book: Book, one: Balance, all: bool = False) -> dict[str, object]:
    """Return the balance of one object.

    :param all: every change, with its stack, and the whole tree.
    """
    index, life = book.index, one.life
    obj = index.snapshot.objects.get(life.object)
    out: dict[str, object] = {
        "address": hex(life.object),
        "type": obj.type if obj else "",
        "path": index.path(life.object) if obj else "",
        "observed": life.count,
        "taken": life.taken,
        "dropped": life.dropped,
        "born": life.born,
        "refused": life.refused or "",
        "references": [
            {
                **edge_json(index, held.edge),
                "evidence": held.evidence,
                "taken": step_json(life.steps[0], held.step),
            }
            for held in one.held
        ],
        "unnamed": [edge_json(index, edge) for edge in one.unnamed],
        "unexplained": [step_json(life.steps[0], step) for step in one.unexplained],
        "unexplained_remain": one.choice or len(one.unexplained),
        "denied": [
            {"kind": kind, "taken": step_json(life.steps[0], step)} for kind, step in one.denied
        ],
        "text": unexplained_text(one) or "",
        "tree": tree_json(balance_tree(life.steps, all), all),
    }
    if all:
        out["events"] = [step_json(life.steps[0], step) for step in life.steps]
    return out


def step_json(first: Step, step: Step) -> dict[str, object]:
    """Return one change of a count.

    :param first: times are from this one on.
    """
    return {
        "by": step.event.by or 0,
        "time_us": (step.event.time - first.event.time) // 1000,
        "thread": step.event.tid,
        "kinds": sorted(step_kinds(step)),
        "text": taken_text(step),
        "stack": [_frame(frame) for frame in step.frames],
        "end": step.stack.end,
    }


def _frame(frame: Frame) -> dict[str, object]:
    return {
        "function": frame.name,
        "file": frame.file or "",
        "line": frame.line or 0,
        "place": frame.place,
        "from": frame.how,
        "machinery": frame.plumbing,
    }
