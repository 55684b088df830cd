"""The policy in words
-------------------
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..audit import Verdict
from ..ledger import POLICIES, Policy
from . import render
from .render import Row

__all__ = ["policy_json", "policy_lines", "policy_text"]


def policy_json(verdict: Verdict) -> dict[str, object]:
    """Return what a report says of the policy.

    ``name`` is the policy that the references are counted by; ``candidates`` are those that
    this QEMU may follow.
    """
    return {
        "name": verdict.policy.name,
        "for": verdict.supporting,
        "against": verdict.opposing,
        "undecided": not verdict.decided,
        "candidates": [policy.name for policy in verdict.candidates],
    }


def policy_text(verdict: Verdict) -> str:
    """Return the policy in a line: its name, the evidence and the rule."""
    policy = verdict.policy
    if not verdict.decided:
        names = _names(verdict.candidates)
        return (
            f"policy undecided: no region of this machine tells {names} apart; what it has counts "
            "alike under all of them"
        )
    if not verdict.supporting and not verdict.opposing:
        evidence = "no region tells, its books balance under this one alone"
    else:
        speak = "speaks" if verdict.supporting == 1 else "speak"
        evidence = f"{render.plural(verdict.supporting, 'region')} {speak} for it"
        evidence += f", {verdict.opposing} against" if verdict.opposing else ", none against"
    mixed = "; mixed: this QEMU follows more than one rule" if verdict.mixed else ""
    return f"policy {policy.name} ({evidence}{mixed}): {policy.rule}"


def policy_lines(verdict: Verdict) -> Iterator[str]:
    """Yield the policy with the evidence, and the others beside it."""
    yield policy_text(verdict)
    rows = [
        Row(
            (
                "*" if policy in verdict.candidates else "",
                policy.name,
                str(verdict.votes[policy.name][0]),
                str(verdict.votes[policy.name][1]),
                policy.where,
                policy.rule,
            ),
            "bold" if policy in verdict.candidates else None,
        )
        for policy in POLICIES
    ]
    yield from render.table(("", "policy", "for", "against", "where", "rule"), rows, right=(2, 3))
    yield (
        "A region votes when its container has the same owner, where the policies differ: for "
        "those under which its owner's books balance."
    )
    if verdict.undecided:
        yield f"{render.plural(verdict.undecided, 'region')} fit none of them, or several."
    others = [policy for policy in verdict.candidates if policy is not verdict.policy]
    if verdict.decided and others:
        verb = "counts" if len(others) == 1 else "count"
        yield (
            f"{_names(others)} {verb} like {verdict.policy.name}: only what finalizing a region "
            "asserts tells them apart, see qmr forecast"
        )


def _names(policies: Sequence[Policy]) -> str:
    names = [policy.name for policy in policies]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
