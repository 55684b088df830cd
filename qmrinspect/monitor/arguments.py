"""Typed QMP arguments
-------------------

``device_add driver=e1000e id=nic0`` becomes JSON by what QEMU says of its own
commands (``query-qmp-schema``, docs/devel/qapi-code-gen): a string stays one although
it looks like a number, and an enum's value is checked before it is sent.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, NamedTuple, Union, cast

from ..errors import UsageError
from ..text import printable
from .base import CommandError, Monitor

__all__ = [
    "Member",
    "Property",
    "Schema",
    "ask_properties",
    "ask_schema",
    "tree_of",
    "typed",
    "typed_property",
]

# Members of members: deeper than this nobody types.
_DEPTH_MAX = 8
_SIZES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

# Words by name, as they were typed: a text, or the same one level below.
Tree = dict[str, Union[str, "Tree"]]


class Member(NamedTuple):
    """A member of a QAPI object: its name, the name of its type, whether it may be left out."""

    name: str
    type: str
    optional: bool


class Property(NamedTuple):
    """A property of a device or an object, by ``device-list-properties``."""

    name: str
    type: str
    description: str | None = None
    default: object = None


class Schema:
    """What a QEMU's monitor understands.

    :param entries: what ``query-qmp-schema`` returned.
    """

    def __init__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        self._types = {str(entry["name"]): entry for entry in entries}
        kinds: dict[str, list[str]] = {"command": [], "event": []}
        for name, entry in self._types.items():
            kinds.setdefault(str(entry["meta-type"]), []).append(name)
        self.commands = frozenset(kinds["command"])
        self.events = frozenset(kinds["event"])

    def members(self, command: str, given: Mapping[str, Any]) -> list[Member]:
        """Return the arguments of a command.

        :param given: those that are typed already; the tag of a union among them chooses
            what further members there are.
        """
        entry = self._types.get(command)
        return list(self._members(str(entry["arg-type"]), given)) if entry else []

    def open_ended(self, command: str) -> str | None:
        """Return the argument whose value decides over members the schema does not list, if any."""
        return {"device_add": "driver", "object-add": "qom-type"}.get(command)

    def below(self, command: str, path: Sequence[str], given: Mapping[str, Any]) -> list[Member]:
        """Return the members of a member: ``file`` of ``blockdev-add``, say.

        :param path: names, outermost first.
        :param given: what is typed already, from the command's level on.
        """
        members = self.members(command, given)
        for name in path:
            kinds = [self._object_of(member.type) for member in members if member.name == name]
            inner = given.get(name)
            given = inner if isinstance(inner, dict) else {}
            members = [m for kind in kinds if kind for m in self._members(kind, given)]
        return members

    def _object_of(self, kind: str) -> str | None:
        """Return a type, or the branch of an alternate, that has members; None for none."""
        entry = self._types.get(kind, {})
        if entry.get("meta-type") == "alternate":
            return next(filter(None, map(self._object_of, _options(entry))), None)
        return kind if entry.get("meta-type") == "object" else None

    def _members(self, kind: str, given: Mapping[str, Any]) -> Iterator[Member]:
        entry = self._types.get(kind, {})
        for member in entry.get("members", ()):
            yield Member(str(member["name"]), str(member["type"]), "default" in member)
        tag = entry.get("tag")
        for variant in entry.get("variants", ()):
            if variant["case"] == given.get(str(tag)):
                yield from self._members(str(variant["type"]), given)

    def values(self, kind: str) -> Sequence[str]:
        """Return what a value of a type may be, empty when that is too much to list."""
        entry = self._types.get(kind, {})
        if entry.get("meta-type") == "enum":
            return [str(value) for value in entry["values"]]
        if entry.get("json-type") == "boolean":
            return ["true", "false"]
        if entry.get("meta-type") == "alternate":
            return [value for option in _options(entry) for value in self.values(option)]
        return ()

    def describe(self, kind: str) -> str:
        """Return a word or two for a type."""
        entry = self._types.get(kind, {})
        meta = entry.get("meta-type", "")
        if meta == "enum":
            return "|".join(map(str, entry["values"]))
        if meta == "array":
            return f"list of {self.describe(str(entry['element-type']))}"
        if meta == "alternate":
            return " or ".join(self.describe(option) for option in _options(entry))
        if meta == "builtin":
            return {"value": "anything"}.get(kind, kind if kind != "any" else "anything")
        return str(meta)

    def typed(
        self,
        command: str,
        words: Sequence[str],
        properties: Callable[[str], Mapping[str, Property]] = lambda kind: {},
    ) -> dict[str, Any]:
        """Read ``k=v`` words as the arguments of a command; dots in a key nest.

        :param properties: those of a driver, for what the schema leaves open.
        :raises UsageError: one is no assignment, is unknown, or its value does not fit.
        """
        tree = tree_of(words)
        members = {member.name: member for member in self.members(command, tree)}
        tag = self.open_ended(command)
        kind = tree.get(tag) if tag is not None else None
        known = properties(kind) if isinstance(kind, str) else {}
        out: dict[str, Any] = {}
        for name, value in tree.items():
            if name in members:
                out[name] = self._convert(members[name].type, value, name, 0)
            elif tag is not None:
                prop = known.get(name)
                out[name] = typed_property(prop, value) if isinstance(value, str) else _loose(value)
            else:
                hint = _near(name, members)
                raise UsageError(f"{command} takes no {printable(name)}", hint)
        missing = [m.name for m in members.values() if not m.optional and m.name not in out]
        if missing:
            wanted = " ".join(f"{name}=" for name in missing)
            raise UsageError(f"{command} needs {wanted}", _meant(missing, tree, members))
        return out

    def _convert(self, kind: str, value: str | Tree, key: str, depth: int) -> Any:
        entry = self._types.get(kind, {})
        meta = entry.get("meta-type", "")
        if depth > _DEPTH_MAX:
            return _loose(value)
        if meta == "alternate":
            return self._alternate(entry, value, key, depth)
        if isinstance(value, dict):
            if meta == "array":
                inner = str(entry["element-type"])
                return [self._convert(inner, v, f"{key}.{k}", depth + 1) for k, v in value.items()]
            if meta != "object":
                raise UsageError(f"{key} has no members", f"write {key}={self.describe(kind)}")
            members = {member.name: member for member in self._members(kind, value)}
            for name in value.keys() - members.keys():
                raise UsageError(f"{key} has no member {printable(name)}", _near(name, members))
            return {
                name: self._convert(members[name].type, inner, f"{key}.{name}", depth + 1)
                for name, inner in value.items()
            }
        if meta == "enum":
            if value not in entry["values"]:
                raise UsageError(
                    f"{key} cannot be {printable(value)}", "one of " + ", ".join(entry["values"])
                )
            return value
        if meta == "array" and not value.startswith("["):
            inner = str(entry["element-type"])
            return [self._convert(inner, part, key, depth + 1) for part in value.split(",") if part]
        if meta in ("object", "array"):
            try:
                return json.loads(value)
            except ValueError:
                raise UsageError(
                    f"{key} takes {self.describe(kind)}",
                    f"write its members, {key}.NAME=VALUE, or JSON",
                ) from None
        return _plain(str(entry.get("json-type", "value")), value, key)

    def _alternate(self, entry: Mapping[str, Any], value: str | Tree, key: str, depth: int) -> Any:
        options = sorted(_options(entry), key=self._strictness)
        if isinstance(value, dict):
            options = [option for option in options if self._object_of(option)] or options
        for option in options:
            try:
                return self._convert(option, value, key, depth + 1)
            except UsageError:
                if option == options[-1]:
                    raise
        return _loose(value)

    def _strictness(self, kind: str) -> int:
        """Order the branches of an alternate: what fits anything comes last."""
        entry = self._types.get(kind, {})
        return {"string": 2, "value": 3}.get(str(entry.get("json-type")), 1)


def ask_schema(monitor: Monitor) -> Schema:
    """Ask QEMU what it understands; some 20 ms, and true for as long as it runs.

    :raises MonitorError: it does not answer.
    """
    return Schema(cast(Any, monitor.execute("query-qmp-schema")))


def ask_properties(
    monitor: Monitor, kind: str, device: bool, timeout: float | None = None
) -> dict[str, Property]:
    """Ask QEMU for the properties of a device type or of an object type, by name.

    :param device: whether it is a device type.
    :param timeout: in seconds, None for the monitor's own.
    :raises CommandError: there is no such type.
    """
    command = "device-list-properties" if device else "qom-list-properties"
    rows = cast(Any, monitor.execute(command, {"typename": kind}, timeout))
    return {
        str(row["name"]): Property(
            str(row["name"]),
            str(row["type"]),
            row.get("description"),
            row.get("default-value"),
        )
        for row in rows
    }


def typed(monitor: Monitor, command: str, words: Sequence[str]) -> dict[str, Any]:
    """Read ``k=v`` words as the arguments of a command; see :meth:`Schema.typed`.

    :raises UsageError: there is no such command, or a word does not fit.
    :raises MonitorError: QEMU does not answer.
    """
    schema = ask_schema(monitor)
    if command not in schema.commands:
        near = difflib.get_close_matches(command, schema.commands, 3, 0.5)
        raise UsageError(
            f"the QMP command {printable(command)} has not been found",
            "did you mean " + " or ".join(near) + "?"
            if near
            else "qmr qmp query-commands lists them",
        )

    def properties(kind: str) -> Mapping[str, Property]:
        try:
            return ask_properties(monitor, kind, command == "device_add")
        except CommandError:
            return {}  # QEMU says so itself when it is asked to make one

    return schema.typed(command, words, properties)


def tree_of(words: Sequence[str]) -> Tree:
    """Sort ``k=v`` words by their keys; dots nest.

    :raises UsageError: one is no assignment, or goes below a value.
    """
    tree: Tree = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{printable(word)!r} is no assignment", "write it as KEY=VALUE")
        place = tree
        *outer, last = key.split(".")
        for part in outer:
            inner = place.setdefault(part, {})
            if isinstance(inner, str):
                raise UsageError(f"{key} goes below {part}, which has a value of its own")
            place = inner
        place[last] = value
    return tree


def typed_property(prop: Property | None, text: str) -> Any:
    """Read the value of a device's property by its QOM type.

    Numbers that cannot be read as one stay text: QEMU's own parsers take ``06.0``.
    """
    if prop is None:
        return _loose(text)
    if prop.type == "bool":
        return _BOOLEANS.get(text.lower(), text)
    # A PCI address is a slot as text and slot times 8 as number (set_pci_devfn).
    if prop.type.startswith(("int", "uint", "size")) and prop.name != "addr":
        return _number(text, text)
    return text


_BOOLEANS = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def _number(text: str, otherwise: Any) -> Any:
    try:
        if text[-1:].lower() in _SIZES and not text.lower().startswith("0x"):
            return int(text[:-1]) * _SIZES[text[-1].lower()]
        return int(text, 0)
    except ValueError:
        return otherwise


def _plain(kind: str, text: str, key: str) -> Any:
    if kind == "string":
        return text
    if kind == "int":
        value = _number(text, None)
        if value is None:
            raise UsageError(f"{key} takes a number, not {printable(text)!r}")
        return value
    if kind == "number":
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"{key} takes a number, not {printable(text)!r}") from None
    if kind == "boolean":
        if text.lower() not in _BOOLEANS:
            raise UsageError(f"{key} is true or false, not {printable(text)!r}")
        return _BOOLEANS[text.lower()]
    if kind == "null":
        if text != "null":
            raise UsageError(f"{key} takes null")
        return None
    return _loose(text)


def _loose(value: str | Tree) -> Any:
    """Read a value of which nothing is known: JSON where it can be, text where not."""
    if isinstance(value, dict):
        return {name: _loose(inner) for name, inner in value.items()}
    try:
        return json.loads(value)
    except ValueError:
        return _BOOLEANS.get(value, value)


def _options(entry: Mapping[str, Any]) -> list[str]:
    return [str(member["type"]) for member in entry.get("members", ())]


def _meant(missing: Sequence[str], given: Mapping[str, Any], members: Mapping[str, Member]) -> str:
    near = [name for name in missing if difflib.get_close_matches(name, list(given), 1, 0.6)]
    return f"did you mean {' and '.join(near)}?" if near else _takes(members)


def _near(name: str, members: Mapping[str, Member]) -> str:
    near = difflib.get_close_matches(name, list(members), 2, 0.5)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    return _takes(members)


def _takes(members: Mapping[str, Member]) -> str:
    return "it takes " + (", ".join(members) or "no arguments")
