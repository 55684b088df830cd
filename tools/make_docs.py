#!/usr/bin/env python3
"""Write docs/ledger.md from the ledger itself.

tools/make_docs.py           writes it
tools/make_docs.py --check   fails when it is not up to date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qmrinspect.ledger import KINDS, POLICIES, RULES  # noqa: E402
from qmrinspect.references import (  # noqa: E402
    HOLDERS,
    Around,
    Holder,
    OfListener,
    OfType,
    Variable,
)

PATH = ROOT / "docs" / "ledger.md"


def lines() -> Iterator[str]:
    yield "# The ledger"
    yield ""
    yield "Made by `tools/make_docs.py` from `qmrinspect/ledger`; not written by hand."
    yield ""
    yield "QEMU counts references on QOM objects. `memory_region_ref` counts on the region's"
    yield "*owner*, never on the region, and a region without an owner holds nothing at all."
    yield "Every kind below is a field of a structure that was seen to hold a reference; paths"
    yield "of sources are those of QEMU 10.0 unless they say otherwise."
    yield ""
    yield "## Policies"
    yield ""
    yield "By which rule adding a subregion takes a reference. They differ only for a region in a"
    yield "container of the same owner, and in what `memory_region_finalize` asserts. Which ones a"
    yield "QEMU may follow is found by what balances the books of its regions; `no-ref` and"
    yield "`owner-shared` take the same references, as do `owner-ref` and `strict`."
    yield ""
    yield "| policy | rule | asserted when a region is finalized | where |"
    yield "|---|---|---|---|"
    for policy in POLICIES:
        asserts = ", ".join(f"`{text}`" for text in policy.finalizing.asserts)
        yield f"| `{policy.name}` | {policy.rule} | {asserts} | {policy.where} |"
    yield ""
    yield "## Kinds of references"
    yield ""
    yield "| kind | what holds what | QEMU source | since, until | transient |"
    yield "|---|---|---|---|---|"
    for kind in sorted(KINDS, key=lambda kind: kind.name):
        ends = "yes" if kind.ends else ""
        yield f"| `{kind.name}` | {kind.holds} | {kind.source} | {kind.since} | {ends} |"
    yield ""
    yield "## Rules"
    yield ""
    yield "References that QEMU's source grants although the holder is not visible here: `qmr"
    yield "check` counts them apart (`refs_by_rule`) and lists each rule with its uses."
    yield "A program that names its variables needs only the rules for irqs."
    yield ""
    yield "| rule | grants | QEMU source |"
    yield "|---|---|---|"
    for rule in RULES.values():
        yield f"| `{rule.name}` | {rule.grants} | {rule.source} |"
    yield ""
    yield "## Holders"
    yield ""
    yield "The declarations behind the kinds whose holder is a field of a device, a backend or a"
    yield "structure that is no object (`qmrinspect/references`). One is used where this QEMU has"
    yield "the fields that it names, and believed where the pointer leads to a live object of the"
    yield "right type; `qmr layout` lists those that a QEMU was not searched for. How a way is"
    yield "written is said at the head of `qmrinspect/references/record.py`. A question is answered"
    yield "by what balances the books: the structure is the same in QEMUs that count the reference"
    yield "and in QEMUs that do not."
    yield ""
    yield "| kind | found at | field | holds | QEMU source | since, until |"
    yield "|---|---|---|---|---|---|"
    for holder in sorted(HOLDERS, key=lambda holder: holder.kind):
        since = f"{holder.since}; question: {holder.unsure}" if holder.unsure else holder.since
        way = f"`{holder.way}`".replace("|", "\\|") if holder.way else _reader(holder)
        yield (
            f"| `{holder.kind}` | {_start(holder)} | {way} | {holder.target} "
            f"| {holder.source} | {since} |"
        )


def _start(holder: Holder) -> str:
    start = holder.start
    if isinstance(start, OfType):
        return f"a {start.type}"
    if isinstance(start, OfListener):
        return f'the memory listener "{start.name}"'
    if isinstance(start, Variable):
        return "a variable"
    if isinstance(start, Around):
        return "pointers to what it holds"
    return f"code: {start.name}"


def _reader(holder: Holder) -> str:
    if isinstance(holder.start, Variable):
        return f"`{holder.start.name}`"
    return " ".join(f"`{need}`" for need in holder.needs.split())


def main() -> int:
    text = "\n".join(lines()) + "\n"
    if "--check" in sys.argv:
        if not PATH.exists() or PATH.read_text() != text:
            print("docs/ledger.md is not up to date: run tools/make_docs.py", file=sys.stderr)
            return 1
        return 0
    PATH.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
