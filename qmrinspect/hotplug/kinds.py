"""What a recipe is made of
------------------------
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Backend", "Driver", "NonDevice", "Recipe", "Rule", "StartOption"]


class Driver(NamedTuple):
    """A device type as ``info qdm`` shows it; ``bus`` is None for one without a bus."""

    name: str
    bus: str | None = None
    user_creatable: bool = True


class Backend(NamedTuple):
    """What stands behind a device and is made and removed through QMP.

    ``{id}`` in a string argument is the device's id.  ``property`` is the device's
    property that names the backend, None where nothing names it.  ``peer`` is a
    kind of program or file (:mod:`qmrinspect.peers`) that must be there
    first; its path is ``{peer}``, and ``{peer:d}`` where it is a number.  One
    without ``create`` is only that, and ``getfd`` gives QEMU the peer's descriptor; one
    without ``delete`` goes by itself.
    """

    property: str | None
    name: str
    create: str | None
    arguments: Mapping[str, object]
    delete: str | None
    delete_key: str
    peer: str | None = None


class Recipe(NamedTuple):
    """How to plug one driver.

    :ivar bus: the type of bus it goes on, None for none; ``object``, ``chardev``, ``netdev``
        or ``block`` for what is no device.
    :ivar properties: of the device, beside ``driver`` and ``id``; ``{id}`` is its id.
    :ivar backends: made before it and removed after it, in this order and backwards.
    :ivar missing: what it needs that this host may lack (a host device, a
        kernel module): the reason when QEMU refuses it.
    :ivar start_options: what the VM must have been started with, by :attr:`StartOption.name`.
    :ivar non_device: how to make what is no device.
    :ivar machine: the only machine type that it is for, None for any.
    :ivar accel: the only accelerator that it is for, None for any.
    """

    driver: str
    bus: str | None
    properties: Mapping[str, object] = {}
    backends: tuple[Backend, ...] = ()
    missing: str | None = None
    start_options: tuple[str, ...] = ()
    non_device: Backend | None = None
    machine: str | None = None
    accel: str | None = None

    @property
    def needs(self) -> frozenset[str]:
        """What its VM must have: a type of bus, and start options."""
        return frozenset(self.start_options).union(() if self.bus is None else (self.bus,))


class StartOption(NamedTuple):
    """What a VM needs at its start: ``name`` is the type of bus that is there with it, or a word.

    ``machine`` is the only machine type that it is for, None for any.  One that is
    ``exclusive`` changes what other devices are or do, and is not in the VM that is for all.
    """

    name: str
    arguments: tuple[str, ...]
    machine: str | None = None
    exclusive: bool = False


class Rule(NamedTuple):
    """What drivers need whose names match a pattern (:mod:`fnmatch`); all that match add up.

    The other fields are those of :class:`Recipe`.
    """

    pattern: str
    properties: Mapping[str, object] = {}
    backends: tuple[Backend, ...] = ()
    missing: str | None = None
    start_options: tuple[str, ...] = ()
    accel: str | None = None


class NonDevice(NamedTuple):
    """How to make what is no device; the other fields are those of :class:`Recipe`.

    ``make`` is None for one that is tried without arguments.
    """

    make: Backend | None = None
    backends: tuple[Backend, ...] = ()
    missing: str | None = None
    start_options: tuple[str, ...] = ()
    machine: str | None = None
