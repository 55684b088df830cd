"""Looking things up in a snapshot
-------------------------------

Paths, names and type relations, derived once from the frozen graph.
"""

from __future__ import annotations

import shlex
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import copy

from .errors import ObjectNotFound
from .snapshot import FieldReference, Obj, Prop, Snapshot, lineage
from .text import nearest, plural, printable

__all__ = ["LEAKED", "Index"]

#: Stands behind the id of a device that leaked, whose id another one may have now.
LEAKED = "@leaked"

_DEPTH_MAX = 256
# A device may embed some hundred regions and irqs before the field that is asked for.
_NESTED_MAX = 4096


class Index:
    """Names and relations of the objects in a snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._chains: dict[str, frozenset[str]] = {}
        self.children: dict[int, list[Prop]] = defaultdict(list)
        self.name_of: dict[int, Prop] = {}
        for prop in snapshot.props:
            if prop.role == "child":
                self.children[prop.holder].append(prop)
                self.name_of.setdefault(prop.target, prop)
        machine = next(
            (o for o in snapshot.objects.values() if self.is_a(o.address, "machine")), None
        )
        self.machine = machine.address if machine else 0
        self.root = self._top(self.machine)
        self._paths: dict[int, str] = {}
        self._starts = sorted(snapshot.objects)
        self._fields: dict[str, list[FieldReference]] = defaultdict(list)
        for field in snapshot.fields:
            self._fields[field.kind].append(field)
        self._pointed = {field.target for field in self._fields["pointed"]}

    def after(self, snapshot: Snapshot) -> Index:
        """Return the index of a later state in which objects have only left the tree, or gone."""
        later = copy(self)
        later.snapshot = snapshot
        later._paths = {}
        return later

    def fields(self, kind: str) -> Sequence[FieldReference]:
        """Return the fields that make references of one kind."""
        return self._fields.get(kind, ())

    def pointed(self, address: int) -> bool:
        """Whether any word of live memory points to an irq."""
        return address in self._pointed

    def enclosing(self, holder: int) -> int:
        """Return the object that a holder is, or is part of; 0 when it is in none."""
        return holder if holder in self.snapshot.objects else self.containing(holder)

    def home(self, address: int) -> str | None:
        """Return what people call the object that an address is in, None when it is in none."""
        home = self.enclosing(address)
        return self.label(home) if home else None

    def containing(self, address: int) -> int:
        """Return the innermost object whose memory holds an address, 0 when none does."""
        i = bisect_right(self._starts, address)
        for start in reversed(self._starts[max(0, i - _NESTED_MAX) : i]):
            info = self.snapshot.types.get(self.snapshot.objects[start].type)
            if info is not None and address < start + info.size:
                return start
        return 0

    def part_of_tree(self, address: int) -> bool:
        """Whether an object lies in the memory of another that the QOM tree has."""
        i = bisect_right(self._starts, address - 1)
        for start in reversed(self._starts[max(0, i - _NESTED_MAX) : i]):
            info = self.snapshot.types.get(self.snapshot.objects[start].type)
            if info is not None and address < start + info.size and self.in_tree(start):
                return True
        return False

    def _top(self, address: int) -> int:
        for _ in range(_DEPTH_MAX):
            obj = self.snapshot.objects.get(address)
            if obj is None or not obj.parent:
                return address
            address = obj.parent
        return address

    def chain(self, type_name: str) -> frozenset[str]:
        """Return a type and all its ancestors."""
        if type_name not in self._chains:
            ancestors = lineage(self.snapshot.types, type_name)
            self._chains[type_name] = frozenset((type_name, *ancestors))
        return self._chains[type_name]

    def is_a(self, address: int, type_name: str) -> bool:
        """Whether an object is of a type or derives from it."""
        obj = self.snapshot.objects.get(address)
        return obj is not None and type_name in self.chain(obj.type)

    def path(self, address: int) -> str:
        """Return the canonical QOM path; empty when the object is not in the tree.

        An object below one that was unparented gets the path from there on,
        beginning with that one's address in angle brackets.
        """
        if address in self._paths:
            return self._paths[address]
        parts: list[str] = []
        at = address
        for _ in range(_DEPTH_MAX):
            if at == self.root:
                break
            prop = self.name_of.get(at)
            obj = self.snapshot.objects.get(at)
            if prop is None or obj is None or obj.parent != prop.holder:
                parts.append(f"<{at:#x}>")
                break
            parts.append(prop.name.replace("/", "\\/"))
            at = prop.holder
        if at == address and address != self.root:
            path = ""
        else:
            prefix = "" if parts and parts[-1].startswith("<") else "/"
            path = prefix + "/".join(reversed(parts))
        self._paths[address] = path
        return path

    def in_tree(self, address: int) -> bool:
        """Whether the QOM tree's root leads to the object."""
        return address == self.root or self.path(address).startswith("/")

    def label(self, address: int) -> str:
        """Return the best short name of an object for people."""
        obj = self.snapshot.objects.get(address)
        if obj is None:
            return f"<{address:#x}>"
        path = self.path(address)
        if path:
            return printable(path)
        device = self.snapshot.devices.get(address)
        name = f" {device.id}" if device and device.id else ""
        region = self.snapshot.regions.get(address)
        if region is not None and region.name:
            name = f" {region.name}"
        return f"{printable(obj.type + name)} <{address:#x}>"

    def resolve(self, text: str) -> Obj:
        """Find the object that ``text`` names: see ``OBJ`` in the contract.

        :raises ObjectNotFound: when none does, or several do.
        """
        objects = self.snapshot.objects
        if text.lower().startswith("0x"):
            try:
                obj = objects.get(int(text, 16))
            except ValueError:
                raise ObjectNotFound(f"{text} is not an address") from None
            if obj is None:
                raise ObjectNotFound(
                    f"there is no live object at {text}", "qmr tree and qmr orphans list them"
                )
            return obj
        paths = {self.path(address): address for address in objects}
        if text in paths:
            return objects[paths[text]]
        id, at, below = text.partition(LEAKED)
        if at and not below:
            leaked = self.leaked(id)
            if not leaked:
                raise ObjectNotFound(f"no device with the id {printable(id)} leaked", self._lost())
            return objects[self._only(leaked, f"devices with the id {id} leaked")]
        # The one in the tree has the name: QEMU gives it to one at a time.
        here = [d.address for d in self.snapshot.devices.values() if d.id == text]
        ids = [address for address in here if self.in_tree(address)] or here
        if ids:
            return objects[self._only(ids, f"devices have the id {text}")]
        wanted = "/" + text.lstrip("/")
        partial = [path for path in paths if path.endswith(wanted)]
        if len(partial) == 1:
            return objects[paths[partial[0]]]
        if len(partial) > 1:
            raise ObjectNotFound(
                f"{text} fits {plural(len(partial), 'object')}",
                "say more: " + ", ".join(sorted(partial)[:5]),
            )
        raise ObjectNotFound(f"there is no object {printable(text)}", self._nearest(text, paths))

    def leaked(self, id: str) -> list[int]:
        """Return the devices of an id that the QOM tree no longer has."""
        devices = self.snapshot.devices.values()
        return [d.address for d in devices if d.id == id and not self.in_tree(d.address)]

    def handle(self, address: int) -> str:
        """Return what an object can be called by in a command: quoted where a shell wants it.

        An id where there is one, ``ID@leaked`` for the only leaked device of an id, else a path
        or an address.
        """
        device = self.snapshot.devices.get(address)
        if device is not None and device.id and device.id.isprintable():
            if self.in_tree(address):
                return shlex.quote(device.id)
            if len(self.leaked(device.id)) == 1:
                return shlex.quote(device.id + LEAKED)
        path = self.path(address)
        return shlex.quote(path) if path.startswith("/") and path.isprintable() else hex(address)

    @staticmethod
    def _only(found: Sequence[int], what: str) -> int:
        if len(found) == 1:
            return found[0]
        raise ObjectNotFound(
            f"{len(found)} {printable(what)}",
            "name one by its address: " + ", ".join(f"{a:#x}" for a in sorted(found)),
        )

    def _lost(self) -> str:
        ids = {d.id for d in self.snapshot.devices.values() if d.id and self.leaked(d.id)}
        known = ", ".join(printable(id + LEAKED) for id in sorted(ids))
        return f"there is {known}" if known else "qmr orphans lists what leaked"

    def _nearest(self, text: str, paths: Iterable[str]) -> str:
        devices = self.snapshot.devices.values()
        names = {d.id if self.in_tree(d.address) else d.id + LEAKED for d in devices if d.id}
        names |= {path for path in paths if path}
        names |= {path.rsplit("/", 1)[-1] for path in paths if path}
        near = nearest(text, names, 4)
        if near:
            return "did you mean " + " or ".join(printable(n) for n in near) + "?"
        return "qmr tree lists them"
