"""Buses, by the human monitor
---------------------------
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Bus", "parse_qtree"]

_PCI_SLOTS = 32
_ONE_SLOT = re.compile(r"pcie-root-port|ioh3420|x3130|xio3130-downstream|pxb|pnv-phb")


@dataclass
class Bus:
    """A bus, by ``info qtree``.

    ``type`` is None until that is read; ``owner`` is the type of the device that has it, None
    where none does.
    """

    name: str
    type: str | None
    owner: str | None
    devices: int

    @property
    def full(self) -> bool:
        """Whether no further device finds a slot."""
        if self.owner is not None and _ONE_SLOT.search(self.owner):
            return self.devices >= 1
        is_pci = self.type is not None and self.type.startswith("PCI")
        return is_pci and self.devices >= _PCI_SLOTS


def parse_qtree(text: str) -> list[Bus]:
    """Read the buses out of ``info qtree``."""
    found: list[tuple[int, Bus]] = []
    owners: list[tuple[int, str]] = []
    buses: list[Bus] = []
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        word, _, rest = line.strip().partition(" ")
        if word == "bus:":
            found = [(d, bus) for d, bus in found if d < depth]
            owners = [(d, name) for d, name in owners if d < depth]
            bus = Bus(rest, None, owners[-1][1] if owners else None, 0)
            found.append((depth, bus))
            buses.append(bus)
        elif word == "dev:":
            found = [(d, bus) for d, bus in found if d < depth]
            owners = [(d, name) for d, name in owners if d < depth]
            owners.append((depth, rest.split(",")[0]))
            if found:
                found[-1][1].devices += 1
        elif word == "type" and found and depth == found[-1][0] + 2:
            found[-1][1].type = rest
    return buses
