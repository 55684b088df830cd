"""Why an object is alive, in words
--------------------------------
"""

from __future__ import annotations

from collections.abc import Iterator

from ..audit.cause import unheld
from ..audit.why import Why
from ..ledger import Book
from . import render, words

__all__ = ["why_lines"]


def why_lines(book: Book, address: int, found: Why) -> Iterator[str]:
    """Yield the chain that keeps an object alive, or the cycle, for people."""
    index = book.index
    label = words.name(index, address)
    steps = render.plural(len(found.chain), "reference")
    if found.cycle:
        if address in found.cycle:
            yield f"{label} is alive because it is in a cycle of references that nothing breaks:"
        else:
            yield f"{label} is alive because a cycle of references holds it:"
    elif not found.root and found.chain:
        yield f"{label} is held only by transient references:"
    elif not found.root:
        yield (
            unheld(book, address)
            if book.residual(address) > 0
            else (
                f"nothing that qmr knows holds {label}, and yet it has {words.state(book, address)}"
            )
        )
        return
    elif not found.chain:
        yield f"{label} is reachable: it is the root of a tree"
        return
    else:
        yield f"{label} is reachable from a root, {steps} away:"
    for number, edge in enumerate(found.chain, 1):
        kind = render.paint(f"[{edge.kind}]", "dim")
        yield f"  {number}. {words.sentence(book, edge)} {kind}"
    yield from words.namesake(index, address)
    last = found.chain[-1].target
    others = len(book.on.get(address, ())) - 1
    if last == address and others > 0:
        verb = "holds" if others == 1 else "hold"
        yield render.paint(
            f"  {render.plural(others, 'other reference')} {verb} it too: "
            f"qmr refs {index.handle(address)}",
            "dim",
        )
