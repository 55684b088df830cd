"""Which fields a structure has
----------------------------

QEMUs differ in what a structure has.  A set of fields belongs together: that of the
nearest QEMU is taken, unless live instances show that another's is right.
"""

from __future__ import annotations

from ..strict.holders import look, witnesses
from .core import Core
from .draft import Draft

__all__ = ["choose"]


def choose(core: Core, draft: Draft) -> None:
    """Settle the structures on objects that have several sets of fields."""
    for name, shapes in draft.shapes.items():
        if len(shapes) < 2 or draft.home(name) is None:
            continue
        scores = []
        for places in shapes:
            draft.places[name] = places
            scores.append(_score(core, draft, name))
        draft.places[name] = shapes[scores.index(max(scores))]


def _score(core: Core, draft: Draft, name: str) -> int:
    """Count the ways through a structure that lead where they should, less those that do not."""
    context = core.context.under(draft.layout())
    score = 0
    for witness in witnesses(context):
        if not any(field.startswith(f"{name}.") for field in witness.fields):
            continue
        for address in core.of_type(witness.type):
            found = look(context, witness, address, core.objects)
            score += -1 if found.wrong else found.right > 0
    return score
