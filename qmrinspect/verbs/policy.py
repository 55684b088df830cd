"""The policy
----------

Which rule for subregions a QEMU follows, as far as its counts tell.
"""

from __future__ import annotations

import argparse

from ..audit import choose
from ..index import Index
from ..ledger import POLICIES
from ..report import words
from ..report.policies import policy_json, policy_lines
from .verb import Answer, Session

__all__ = ["run_policy"]


def run_policy(session: Session, args: argparse.Namespace) -> Answer:
    """Say which reference policy QEMU follows, with the evidence (``qmr-policy/1``)."""
    snapshot = session.snapshot()
    verdict, _ = choose(Index(snapshot))
    data = {
        **words.head_json("qmr-policy/1", snapshot),
        "policy": policy_json(verdict),
        "mixed": verdict.mixed,
        "undecided": verdict.undecided,
        "policies": [
            {
                "name": policy.name,
                "for": verdict.votes[policy.name][0],
                "against": verdict.votes[policy.name][1],
                "candidate": policy in verdict.candidates,
                "asserts": list(policy.finalizing.asserts),
                "rule": policy.rule,
                "where": policy.where,
            }
            for policy in POLICIES
        ],
    }
    return Answer(data, policy_lines(verdict))
