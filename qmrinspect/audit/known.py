"""What hunts found of a device type
---------------------------------

``known.json`` is made by ``tools/make_known.py`` from whole hunts, and names them.  Nobody asks
here what a device does: it is for a word of warning before one is plugged into a VM that
somebody uses, and for what no reading of a plugged device shows.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

from .cause import CYCLIC

__all__ = ["AGAIN", "CPUS", "DATA", "breaks_its_cycles", "known_trouble"]

#: The file, and the name in it that stands for all CPU models.
DATA = Path(__file__).with_name("known.json")
CPUS = "*-cpu"
#: In the place of a cause: QEMU died, but not before the device was plugged once more.
AGAIN = "crash-again"

# The cause that a policy may rule out, and those under which a region of the same owner keeps
# nobody alive; see docs/policies.md.
_SAME_OWNER = "same-owner-subregions"
_HARMLESS = frozenset(("owner-shared", "subregion-ref", "no-ref"))
_NEAREST = {"strict": "owner-ref", "subregion-ref": "owner-shared", "no-ref": "owner-shared"}


def known_trouble(driver: str, policy: str) -> str:
    """Return what is known of a device: ``crash``, the causes of its leak, or nothing.

    :param policy: that the QEMU follows.
    """
    causes = _found(policy).get(_name(driver), ())
    return "crash" if {"crash", AGAIN} & {*causes} else ", ".join(causes)


def breaks_its_cycles(driver: str, policy: str) -> bool | None:
    """Whether unplugging breaks the cycles of a device, None where none was hunted."""
    causes = _found(policy).get(_name(driver))
    if causes is None or "crash" in causes:
        return None
    return not set(causes) & CYCLIC


def _name(driver: str) -> str:
    return CPUS if driver.endswith("-cpu") else driver


@functools.cache
def _found(policy: str) -> dict[str, tuple[str, ...]]:
    """Return the device types that were hunted, each with what came of it."""
    found = json.loads(DATA.read_text(encoding="utf-8"))["found"]
    out = {}
    for key, names in found.get(policy, found.get(_NEAREST.get(policy, ""), {})).items():
        causes = [c for c in key.split(", ") if c]
        if policy in _HARMLESS:
            causes = [c for c in causes if c != _SAME_OWNER]
        out.update(dict.fromkeys(names.split(), tuple(causes)))
    return out
