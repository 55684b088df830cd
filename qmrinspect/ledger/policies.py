"""The policies
------------

By which rule adding a subregion takes a reference, and what a region that is finalized
may still have.  "memory: Do not create circular reference with subregion" (qemu-devel,
2024 and 2025) argues over them: QEMU has followed three, and two more were posted.
"""

from __future__ import annotations

from ..snapshot import Region
from ..tuples import NamedTuple

__all__ = ["POLICIES", "Finalizing", "Policy", "by_name"]

# What memory_region_finalize() (system/memory.c) asserts, in its own words.
NO_CONTAINER = "!mr->container"
NO_SUBREGIONS = "QTAILQ_EMPTY(&mr->subregions)"
SAME_OWNER = "mr->container->owner == mr->owner"


class Finalizing(NamedTuple):
    """What finalizing a region asks for and does.

    :param asserts: conditions in QEMU's words, in the order in which they are tested;
        QEMU aborts where one does not hold.
    :param leaves: whether the region leaves its container, when it still is in one, before it
        lets its subregions go.
    """

    asserts: tuple[str, ...]
    leaves: bool = False


class Policy(NamedTuple):
    """One rule.

    :param same_owner: what a subregion of a container of the same owner
        references: ``owner``, ``region`` or ``nothing``.
    :param same_none: the same for a pair of regions that both have no owner.
    :param finalizing: what finalizing a region asks for and does.
    :param age: where it stands in a list of them, the oldest first.
    """

    name: str
    same_owner: str
    same_none: str
    finalizing: Finalizing
    rule: str
    where: str
    age: int

    def referenced(self, region: Region, container: Region) -> int:
        """Return the object that a container references for a subregion; 0 for none.

        :param container: that the region is in, or would be.
        """
        if region.owner != container.owner:
            return region.owner
        takes = self.same_owner if region.owner else self.same_none
        return {"owner": region.owner, "region": region.address, "nothing": 0}[takes]

    def counts_like(self, other: Policy) -> bool:
        """Whether both take the same references: no count tells one from the other."""
        return (self.same_owner, self.same_none) == (other.same_owner, other.same_none)


# Of those that count alike the first stands for all.
POLICIES = (
    Policy(
        "owner-ref",
        "owner",
        "nothing",
        Finalizing((NO_CONTAINER,)),
        "the subregion's owner is referenced, always; finalizing a container detaches its "
        "subregions",
        "2e2b8eb70fdb7dfb (2.5) to 10.1",
        1,
    ),
    Policy(
        "owner-shared",
        "nothing",
        "nothing",
        Finalizing((SAME_OWNER,), leaves=True),
        "same owner: no reference; finalizing a region detaches it from its container and its "
        "subregions from it",
        "ac7a892fd3 (10.2) on",
        4,
    ),
    Policy(
        "subregion-ref",
        "region",
        "region",
        Finalizing((NO_CONTAINER,)),
        "same owner: the subregion itself is referenced; otherwise its owner",
        "the series of 2024 and 2025, v4 to v9; not merged",
        3,
    ),
    Policy(
        "no-ref",
        "nothing",
        "nothing",
        Finalizing((NO_CONTAINER,)),
        "same owner: no reference; a region in a container must not be finalized",
        "the same series, v1 to v3; not merged",
        2,
    ),
    Policy(
        "strict",
        "owner",
        "nothing",
        Finalizing((NO_CONTAINER, NO_SUBREGIONS)),
        "the subregion's owner is referenced, always; a region must be empty, and in no container, "
        "before it is finalized",
        "before 2e2b8eb70fdb7dfb (2.5)",
        0,
    ),
)


def by_name(name: str) -> Policy:
    """Return the policy of that name; KeyError when there is none."""
    return {policy.name: policy for policy in POLICIES}[name]
