#!/usr/bin/env python3
"""Write docs/ledger.md from the ledger itself, and docs/causes.md from what pages say of causes.

tools/make_docs.py           writes them
tools/make_docs.py --check   fails when one is not up to date
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qmrinspect.audit.outcome import BAD  # noqa: E402
from qmrinspect.ledger import KINDS, POLICIES, RULES  # noqa: E402
from qmrinspect.pages.advice import ADVICE, STALE, Advice  # noqa: E402
from qmrinspect.references import (  # noqa: E402
    HOLDERS,
    Around,
    Holder,
    OfListener,
    OfType,
    Variable,
)

DOCS = ROOT / "docs"


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
    yield "check` counts them separately (`refs_by_rule`) and lists each rule with its uses."
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


_OUTCOMES = {
    "clean": "finalized, with all that came with it",
    "delayed": "alive, and every reference that is left is transient",
    "leak": "unparented, alive, and references remain",
    "partial-leak": "the device was finalized, something that came with it was not",
    "stale": "finalized, and something live would still call it or read it",
    "not-acked": "the guest never released it",
    "refused": "QEMU refused to plug or unplug it",
    "crash": "QEMU died",
    "hang": "QEMU did not answer in time",
}
_KINDS = "orphan cycle unexplained underflow dangling visible-unreferenced stale unreadable".split()


def causes() -> Iterator[str]:
    yield "# Causes and outcomes"
    yield ""
    yield "Made by `tools/make_docs.py` from `qmrinspect/pages/advice.py`, which the pages of `qmr"
    yield "report` quote; not written by hand. How a finding is read as a whole says"
    yield "[reading a finding](finding.md)."
    yield ""
    yield "## Outcomes of an unplug"
    yield ""
    yield "| outcome | what happened | a finding |"
    yield "|---|---|---|"
    for word, text in _OUTCOMES.items():
        yield f"| `{word}` | {text} | {'yes' if word in BAD else ''} |"
    yield ""
    yield "## Causes"
    yield ""
    yield "The frequent ones first. Each with what it means, and how such bugs were mended."
    yield ""
    for word in ADVICE:
        if word not in _KINDS and word not in _OUTCOMES:
            yield from _advice(word)
    yield "## Causes of a stale device"
    yield ""
    yield "What still leads to it. In text and JSON each has the kind as its name."
    yield ""
    for kind, advice in STALE.items():
        yield from _told(kind, advice)
    yield "## Outcomes that have no cause"
    yield ""
    for word in _OUTCOMES:
        if word in ADVICE and word not in _KINDS and word != "delayed":
            yield from _advice(word)
    yield "## Kinds of findings of a check"
    yield ""
    for word in _KINDS:
        yield from _advice(word)


def _advice(word: str) -> Iterator[str]:
    yield from _told(word + ("-KIND" if word == "held-by" else ""), ADVICE[word])


def _told(word: str, advice: Advice) -> Iterator[str]:
    commit = f" ([{advice.commit}]({advice.url}))" if advice.commit else ""
    yield f"### `{word}`"
    yield ""
    yield f"{_code(advice.meaning)} {_code(advice.mended)}{commit}"
    yield ""


def _code(text: str) -> str:
    return re.sub(r"[\w/.]+(?:\(\)|\.rst)", r"`\g<0>`", text)


def main() -> int:
    for name, made in (("ledger.md", lines()), ("causes.md", causes())):
        text = "\n".join(made).rstrip() + "\n"
        path = DOCS / name
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"docs/{name} is not up to date: run tools/make_docs.py", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
