"""What outlives what it needs
---------------------------

The sentence on a stale callback, the same in every verb, and the findings of a check.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..index import Index
from ..ledger import Book
from ..snapshot import Stale
from ..text import printable
from .finding import Finding, Severity
from .graph import hidden

if TYPE_CHECKING:
    from ..documents import StaleJson

__all__ = ["CALLS", "outside_of", "stale_findings", "stale_json", "stale_text"]

#: By kind: what it is called, what it does with what it has, and when.
CALLS = {
    "reset-handler": ("a reset handler", "at the next system reset"),
    "vm-change-handler": ("a VM-change handler", "when the VM is next stopped or continued"),
    "timer": ("an active timer", "when it expires"),
    "bottom-half": ("a scheduled bottom half", "as soon as the main loop runs"),
    "fd-handler": ("a handler of a file descriptor", "when the descriptor is ready"),
    "savevm-entry": ("an entry of savevm", "when the VM is next saved or migrated"),
    "notifier": ("a list of notifiers", "when it is next notified"),
    "irq-handler": ("an irq", "when it is raised"),
    "memory-listener": ("the list of memory listeners", "when the memory topology changes"),
    "request": ("a request that is queued or in flight", "when it is completed"),
    "packet": ("a queued packet", "when the queue is flushed"),
    "chardev-handler": ("a character device", "when it has input or an event"),
    "drive-handler": ("a block backend", "when its medium changes or it is drained"),
    "input-handler": ("a handler of input events", "at the next key or movement"),
    "eventfd": ("an eventfd's registration", "when the memory topology or a route changes"),
    "iommu-notifier": ("an IOMMU's list of notifiers", "when a mapping changes"),
    "migration-blocker": ("the list of migration blockers", "at the next query-migrate or migrate"),
    "bus-list": ("the list of buses", "when the buses are next walked"),
    "list": ("a list", "when it is next walked"),
    "candidate": ("a structure that is not known", "if it is used as it looks"),
    "address-space": ("the list of address spaces", "when the memory topology changes"),
    "child": ("the child property", "when a name is next looked for in the QOM tree"),
    "link": ("the link property", "when it is next followed"),
    "subregion": ("the container of a memory region", "when the memory topology changes"),
}
#: Lists, which lead to what they have.
_LEADS = (
    "memory-listener address-space notifier eventfd iommu-notifier migration-blocker bus-list list "
    "child link subregion"
).split()


def stale_text(stale: Stale, was: str | None = None) -> str:
    """Return one stale callback in a sentence.

    :param was: what was at its target, or is there and is outside the tree; None for not known.
    """
    holder, when = CALLS.get(stale.kind, (stale.kind, "when it is used"))
    if stale.name and not stale.function:
        holder = f'{holder} "{printable(stale.name)}" of'
    does = f"would call {printable(stale.name)} with" if stale.function else "would use"
    if not stale.certain:
        does = f"has {printable(stale.name)} beside a pointer to"
    size = f" of {stale.size} bytes" if stale.size else ""
    unknown = f"the freed block{size}" if stale.freed else "an object"
    what = printable(was) if was is not None else unknown
    state = "which was freed" if stale.freed else "which is no longer in the QOM tree"
    if stale.kind in _LEADS and (stale.freed or not stale.function):
        does = "leads to"
    at = f" <{stale.target:#x}>" if f"{stale.target:#x}" not in what else ""
    return f"{holder} <{stale.address:#x}> {does} {what}{at}, {state}, {when}"


def stale_findings(book: Book) -> Iterator[Finding]:
    """Yield a finding for each stale callback of the snapshot that is certain."""
    index = book.index
    for stale in index.snapshot.stale:
        if not stale.certain:
            continue
        home = 0 if stale.freed else index.enclosing(stale.target)
        if home and hidden(book, home):
            continue
        was = index.label(home) if home else None
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


def stale_json(stale: Stale, index: Index) -> StaleJson:
    """Return a stale callback as rows and answers have it.

    :param index: of the snapshot with what it leads to.
    """
    was = index.home(stale.target)
    return {
        "kind": stale.kind,
        "address": hex(stale.address),
        "function": stale.name if stale.function else "",
        "target": hex(stale.target),
        "freed": stale.freed,
        "text": stale_text(stale, was),
    }
