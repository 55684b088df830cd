"""Ways to make a device fail
--------------------------

How ``device_add`` of a driver can be refused although the driver is there: values that its
properties do not take, backends that are missing or wrong, slots that are taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..monitor.arguments import Property, ask_properties
from ..monitor.base import CommandError, Monitor
from .kinds import Recipe

__all__ = ["FULL", "Trial", "more_trials", "properties_of", "trials"]

#: :attr:`Trial.property` of the one for which all slots of the bus are taken first.
FULL = "bus"
_NO_SUCH = "qmr-no-such"
_NO_FILE = "/qmr-no-such/rom"
# In this slot of the first bus there is always something: the machine's south bridge.
_TAKEN = "1.0"
# QEMU's words name so many limits at most that are worth trying.
_NUMBERS_MAX = 6

_BITS = re.compile(r"^(u?)int(8|16|32|64)\b")


class Trial(NamedTuple):
    """One way.

    :param property: what is changed; ``value`` is what it is given, None for nothing.
    :param why: what is wrong with it.
    """

    property: str
    value: object
    why: str
    recipe: Recipe

    def describe(self) -> str:
        """Return what is tried, in a few words."""
        if self.property == FULL and self.value is None:
            return "on a bus that is full"
        return f"without {self.property}" if self.value is None else f"{self.property}={self.value}"


def properties_of(monitor: Monitor, driver: str) -> list[Property]:
    """Return the properties of a driver; none where QEMU does not tell."""
    try:
        return list(ask_properties(monitor, driver, True).values())
    except CommandError:
        return []


def trials(recipe: Recipe, properties: Sequence[Property]) -> Iterator[Trial]:
    """Yield the ways to try, by the types of the properties and by what the recipe brings."""
    for backend in recipe.backends:
        if backend.property:
            others = tuple(b for b in recipe.backends if b is not backend)
            left = recipe._replace(backends=others)
            yield Trial(backend.property, None, "missing backend", left)
            yield _with(left, backend.property, _NO_SUCH, "no such backend")
    for name in recipe.properties:
        kept = {key: value for key, value in recipe.properties.items() if key != name}
        yield Trial(name, None, "missing", recipe._replace(properties=kept))
    backends = {backend.property for backend in recipe.backends}
    names = {prop.name for prop in properties}
    for prop in properties:
        if prop.name not in backends:
            for value, why in _values(prop):
                yield _with(recipe, prop.name, value, why)
    if recipe.bus == "PCI":
        if "addr" in names:
            yield _with(recipe, "addr", _TAKEN, "address in use")
        yield Trial(FULL, None, "bus is full", recipe)


def more_trials(recipe: Recipe, properties: Sequence[Property], message: str) -> Iterator[Trial]:
    """Yield the ways that QEMU's own words suggest: the properties and limits that it names."""
    numbers = [int(text, 0) for text in re.findall(r"\b(?:0x[0-9a-fA-F]+|\d+)\b", message)]
    words = set(re.findall(r"[\w-]+", message))
    for prop in properties:
        limits = _range(prop) if prop.name in words else None
        if limits is not None:
            low, high = limits
            for number in numbers[:_NUMBERS_MAX]:
                for value in (number - 1, number + 1):
                    if low <= value <= high:
                        yield _with(recipe, prop.name, value, "beside a limit that QEMU names")


def _with(recipe: Recipe, name: str, value: object, why: str) -> Trial:
    properties = {**recipe.properties, name: value}
    return Trial(name, value, why, recipe._replace(properties=properties))


def _range(prop: Property) -> tuple[int, int] | None:
    """Return the least and the greatest value of an integer, None for another property."""
    match = _BITS.match(prop.type)
    if match is None:
        return None
    bits = int(match[2])
    return (0, (1 << bits) - 1) if match[1] else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _values(prop: Property) -> Iterable[tuple[object, str]]:
    limits = _range(prop)
    if limits is not None:
        low, high = limits
        return [(value, "out of range") for value in dict.fromkeys((low, 0, high))]
    if prop.type in ("size", "int"):
        return [(0, "out of range"), ((1 << 63) - 1, "out of range")]
    if prop.name == "romfile":
        return [(_NO_FILE, "no such file")]
    if prop.type == "bool" or prop.type.startswith("child<") or prop.name == "addr":
        return []
    # A text, the name of something, or a word out of a list; QEMU must not make a file of it, as
    # usb devices do for their pcap.
    return [(f"{_NO_SUCH}/it" if prop.type == "str" else _NO_SUCH, "no such value")]
