"""What outlives what it needs
---------------------------

The sentence on a stale callback, the same in every verb, and the findings of a check.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..ledger import Book
from ..snapshot import Stale
from ..text import printable
from .finding import Finding, Severity

__all__ = ["outside_of", "stale_findings", "stale_text"]

#: By kind: what it is called, what it does with what it has, and when.
_CALLS = {
    "reset-handler": ("a reset handler", "at the next system reset"),
    "vm-change-handler": ("a VM-change handler", "when the VM is next stopped or continued"),
    "timer": ("an active timer", "when it expires"),
    "bottom-half": ("a scheduled bottom half", "as soon as the main loop runs"),
    "fd-handler": ("a handler of a file descriptor", "when the descriptor is ready"),
    "savevm-entry": ("an entry of savevm", "when the VM is next saved or migrated"),
    "notifier": ("a list of notifiers", "when it is next notified"),
    "irq-handler": ("an irq", "when it is raised"),
    "memory-listener": ("the list of memory listeners", "when the memory topology changes"),
    "candidate": ("a structure that is not known", "if it is used as it looks"),
    "address-space": ("the list of address spaces", "when the memory topology changes"),
}


def stale_text(stale: Stale, was: str = "") -> str:
    """Return one stale callback in a sentence.

    :param was: what was at its target, or is there and is outside the tree.
    """
    holder, when = _CALLS.get(stale.kind, (stale.kind, "when it is used"))
    does = f"would call {printable(stale.name)} with" if stale.function else "would use"
    if not stale.certain:
        does = f"has {printable(stale.name)} beside a pointer to"
    size = f" of {stale.size} bytes" if stale.size else ""
    what = printable(was) or (f"the freed block{size}" if stale.freed else "an object")
    state = "which was freed" if stale.freed else "which is no longer in the QOM tree"
    if stale.kind in ("memory-listener", "address-space", "notifier") and stale.freed:
        does = "leads to"
    at = f" <{stale.target:#x}>" if f"{stale.target:#x}" not in what else ""
    return f"{holder} <{stale.address:#x}> {does} {what}{at}, {state}, {when}"


def stale_findings(book: Book) -> Iterator[Finding]:
    """Yield a finding for each stale callback of the snapshot."""
    index = book.index
    for stale in index.snapshot.stale:
        home = 0 if stale.freed else index.enclosing(stale.target)
        was = index.label(home) if home else ""
        address = home or stale.block or stale.target
        yield Finding("stale", Severity.ERROR, address, 0, 0, (), stale_text(stale, was))


def outside_of(book: Book, members: list[int]) -> list[tuple[int, int]]:
    """Return the memory of objects: sorted (start, end) ranges that do not overlap."""
    snapshot = book.index.snapshot
    rows: list[tuple[int, int]] = []
    for address in sorted(members):
        obj = snapshot.objects.get(address)
        info = snapshot.types.get(obj.type) if obj is not None else None
        if info is not None and (not rows or address >= rows[-1][1]):
            rows.append((address, address + max(info.size, 1)))
    return rows
