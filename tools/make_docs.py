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
from qmrinspect.walk.fields import FIELDS  # noqa: E402

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
    yield "| kind | what holds what | QEMU source | since, until | ends by itself |"
    yield "|---|---|---|---|---|"
    for kind in sorted(KINDS, key=lambda kind: kind.name):
        ends = "yes" if kind.ends else ""
        yield f"| `{kind.name}` | {kind.holds} | {kind.source} | {kind.since} | {ends} |"
    yield ""
    yield "## Rules"
    yield ""
    yield "References that QEMU's source grants although the holder is out of sight: `qmr check`"
    yield "counts them apart (`refs_by_rule`) and lists each rule with how often it was used. A"
    yield "program that names its variables needs only the rules for irqs."
    yield ""
    yield "| rule | grants | QEMU source |"
    yield "|---|---|---|"
    for rule in RULES.values():
        yield f"| `{rule.name}` | {rule.grants} | {rule.source} |"
    yield ""
    yield "## Fields that keep a reference"
    yield ""
    yield "The rows behind the kinds whose holder is a field of one device or backend. A row is"
    yield "used where the QOM type's instances have the size of its structure, and believed where"
    yield "the pointer leads to a live object of the right type."
    yield ""
    yield "| kind | type | field | holds |"
    yield "|---|---|---|---|"
    for row in FIELDS:
        form = "" if row.form == "pointer" else f" ({row.form.split()[0]})"
        yield f"| `{row.kind}` | {row.type} | `{row.way}`{form} | {row.target} |"


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
