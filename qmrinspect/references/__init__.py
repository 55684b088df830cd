"""References
----------

Who can hold a reference: one declaration a holder, the only list.  What the layout
must know, what the walk reads, the table of the ledger and its page in the docs
follow from it.  Each module of this package declares ``KINDS`` and ``HOLDERS``;
adding one adds them.
"""

from __future__ import annotations

import os
from importlib import import_module

from .record import Around, Holder, Kind, OfListener, OfType, Reader, Variable, fields_of

__all__ = [
    "HOLDERS",
    "KINDS",
    "Around",
    "Holder",
    "Kind",
    "OfListener",
    "OfType",
    "Reader",
    "Variable",
    "schema",
]

# pkgutil, which lists modules as well, takes longer to import than all of them.
_NAMES = {file[:-3] for place in __path__ for file in os.listdir(place) if file.endswith(".py")}
_MODULES = [import_module(f"{__name__}.{name}") for name in sorted(_NAMES - {"__init__", "record"})]

#: Every kind of reference whose holders are declared, and every holder.
KINDS: tuple[Kind, ...] = tuple(k for m in _MODULES for k in getattr(m, "KINDS", ()))
HOLDERS: tuple[Holder, ...] = tuple(h for m in _MODULES for h in getattr(m, "HOLDERS", ()))


def schema() -> dict[str, list[str]]:
    """Return the structures and fields that the holders rest on."""
    out: dict[str, list[str]] = {}
    for holder in HOLDERS:
        for struct, names, _ in fields_of(holder):
            known = out.setdefault(struct, [])
            known += [name for name in names if name not in known]
        if holder.mark:
            struct, _, field = holder.mark.lstrip("!").partition(".")
            known = out.setdefault(struct, [])
            if field not in known:
                known.append(field)
    return out
