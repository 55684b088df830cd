"""Behind a device
---------------

The backends of a device, and the programs and files behind those: made before it is plugged,
released after it is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from ..monitor.base import CommandError, Monitor
from .kinds import Backend, Recipe

if TYPE_CHECKING:
    from ..peers import Peer

__all__ = ["Behind", "create", "remove"]

T = TypeVar("T")


class Behind:
    """What is made for one device.

    :param id: of the device; its backends are named after it.
    """

    def __init__(self, recipe: Recipe, id: str) -> None:
        self._recipe = recipe
        #: What stands for what in a recipe, as "{id}".
        self.names = {"{id}": id}
        #: The properties of the device.
        self.properties = {
            key: _named(value, self.names) for key, value in recipe.properties.items()
        }
        #: The names of the backends that were made, in the recipe's order.
        self.made: list[str] = []
        self.peers: list[Peer] = []

    def make(self, monitor: Monitor) -> None:
        """Make all; after an error, ``made`` and ``peers`` are what there is.

        :raises CommandError: QEMU refused.
        :raises PeerMissing: this machine lacks what a backend needs.
        :raises MonitorLost: QEMU died of it.
        """
        for backend in self._recipe.backends:
            if backend.peer is not None:
                from ..peers import open_peer

                self.peers.append(open_peer(backend.peer))
                self.names.update(_names_of(self.peers[-1]))
            name = _named(backend.name, self.names)
            descriptor = self.peers[-1].descriptor if backend.create == "getfd" else None
            create(monitor, backend, name, self.names, descriptor)
            self.made.append(name)
            if backend.property is not None:
                self.properties[backend.property] = name


def create(
    monitor: Monitor,
    backend: Backend,
    name: str,
    names: Mapping[str, str],
    descriptor: int | None = None,
) -> None:
    """Have QEMU make a backend, or what is no device.

    :param names: as of :attr:`Behind.names`.
    :param descriptor: a file to hand over with the command.
    :raises CommandError: QEMU refused.
    """
    if backend.create is None:
        return
    arguments = {key: _named(value, names) for key, value in backend.arguments.items()}
    arguments[backend.delete_key] = name
    if backend.delete_key == "job-id":
        monitor.run_job(backend.create, arguments, name)
    else:
        monitor.execute(backend.create, arguments, descriptor=descriptor)


def remove(monitor: Monitor, backends: Sequence[Backend], names: Sequence[str]) -> tuple[str, ...]:
    """Remove backends, the last one first; return what QEMU did not release, and why.

    :param names: what they were made as.
    """
    refused = []
    for backend, name in reversed(list(zip(backends, names))):
        if backend.delete is None:
            continue
        try:
            monitor.execute(backend.delete, {backend.delete_key: name})
        except CommandError as error:
            # A device may take its backend along: usb-redir deletes its chardev.
            if not error.desc.endswith("not found"):
                refused.append(f"{name}: {error.desc}")
    return tuple(refused)


def _named(value: T, names: Mapping[str, str]) -> T:
    # "{id}", "{peer}" and "{peer.NAME}" stand for what is known only now, at any depth.
    if value == "{peer:d}":
        return cast(T, int(names["{peer}"]))
    if isinstance(value, str):
        text: str = value
        for name, meant in names.items():
            text = text.replace(name, meant)
        return cast(T, text)
    if isinstance(value, dict):
        return cast(T, {key: _named(item, names) for key, item in value.items()})
    if isinstance(value, list):
        return cast(T, [_named(item, names) for item in value])
    return value


def _names_of(peer: Peer) -> dict[str, str]:
    named = {f"{{peer.{name}}}": meant for name, meant in peer.names.items()}
    return {"{peer}": peer.path, **named}
