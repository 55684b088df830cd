"""References
----------

Who can hold a reference: one declaration a holder, the only list.  What the layout
must know, what the walk reads, the table of the ledger and its page in the docs
follow from it.  Each module of this package declares ``KINDS`` and ``HOLDERS``;
adding one adds them.
"""

from __future__ import annotations

import pkgutil
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

_MODULES = [
    import_module(f"{__name__}.{module.name}")
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name)
    if module.name != "record"
]

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
