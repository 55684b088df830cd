"""Which VM a driver needs
----------------------

An ordinary one mostly; what needs a machine type, an accelerator or a start option that others
may not have gets one for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .guest import GUEST_START_OPTIONS
from .kinds import Driver, Recipe
from .recipes import START_OPTIONS, recipe_for

__all__ = ["VmKind", "needed"]


class VmKind(NamedTuple):
    """What a VM is started as; ``needs`` as of :attr:`Recipe.needs`.

    :param special: it is for what needs a machine type, an accelerator or a start option of its
        own, and has no guest: a guest need not boot on that.
    """

    needs: frozenset[str]
    machine: str
    accel: str
    cpu: str | None
    special: bool = False


def needed(
    driver: str, known: Mapping[str, Driver], ordinary: VmKind, guest: bool
) -> tuple[Recipe, VmKind]:
    """Return the recipe of a driver, and the VM that it needs.

    :param known: what this QEMU has; before that is known, a driver's name alone says it.
    :param ordinary: the VM that most need.
    :param guest: whether that has a guest.
    """
    recipe = recipe_for(driver, known)
    exclusive = {option.name for option in START_OPTIONS if option.exclusive}
    if guest:
        exclusive.difference_update(GUEST_START_OPTIONS)
    if not recipe.machine and not recipe.accel and exclusive.isdisjoint(recipe.start_options):
        return recipe, ordinary
    machine, accel = recipe.machine or ordinary.machine, recipe.accel or ordinary.accel
    return recipe, VmKind(recipe.needs, machine, accel, ordinary.cpu, special=True)
