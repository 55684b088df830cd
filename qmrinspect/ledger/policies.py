"""The policies
------------

By which rule adding a subregion takes a reference.  The seed thread's authors
disagree on it; QEMU has followed three of them, and a fourth was posted nine
times.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["POLICIES", "Policy", "by_name"]


class Policy(NamedTuple):
    """One rule.

    :param same_owner: what a subregion of a container of the same owner
        references: ``owner``, ``region`` or ``nothing``.
    :param same_none: the same for a pair of regions that both have no owner.
    :param detaches: what finalizing a region does: ``nothing`` (it must be empty
        before), ``subregions`` (it lets go of them; a region that still has a
        container must not be finalized), ``both`` (it leaves its container too).
    """

    name: str
    same_owner: str
    same_none: str
    detaches: str
    rule: str
    where: str


POLICIES = (
    Policy(
        "owner-ref",
        "owner",
        "nothing",
        "subregions",
        "the subregion's owner is referenced, always; finalizing a container detaches its "
        "subregions",
        "2e2b8eb70fdb7dfb (2.5) to 10.1",
    ),
    Policy(
        "owner-shared",
        "nothing",
        "nothing",
        "both",
        "same owner: no reference; finalizing a region detaches it from its container and its "
        "subregions from it",
        "ac7a892fd3 (10.2) on",
    ),
    Policy(
        "subregion-ref",
        "region",
        "region",
        "subregions",
        "same owner: the subregion itself is referenced; otherwise its owner",
        "the seed thread's patch, v4 to v9",
    ),
    Policy(
        "strict",
        "owner",
        "nothing",
        "nothing",
        "the subregion's owner is referenced, always; a region must be empty before it is "
        "finalized",
        "before 2e2b8eb70fdb7dfb (2.5)",
    ),
)


def by_name(name: str) -> Policy:
    """Return the policy of that name; KeyError when there is none."""
    return {policy.name: policy for policy in POLICIES}[name]
