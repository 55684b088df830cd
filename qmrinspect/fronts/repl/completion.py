"""Completion in the REPL
----------------------

What a half-typed line may go on with.  It asks the monitor at most, and never stops
the VM; the front calls it in a thread, so that typing does not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ...errors import UsageError
from ...monitor.arguments import Member, tree_of
from ...verbs.verb import Verb
from ..complete import Completion, complete
from .knowledge import Knowledge
from .line import first_word
from .session import ReplSession

__all__ = ["LineCompleter"]

_SHOWN_MAX = 500
_NAME_MAX = 120

# Arguments of QMP commands that name something that exists.
_NAMED = {
    "node-name": ("query-named-block-nodes", "node-name"),
    "drive": ("query-block", "device"),
    "chardev": ("query-chardev", "label"),
    "netdev": ("query-rx-filter", "name"),
}
_DEVICE_COMMANDS = frozenset(("device_del", "device-sync-config"))


class LineCompleter:
    """Completes a line of the session.

    :param verbs: the verbs of this front, by name.
    """

    def __init__(
        self, session: ReplSession, knowledge: Knowledge, verbs: Mapping[str, Verb]
    ) -> None:
        self._session, self._knowledge, self._verbs = session, knowledge, verbs

    def complete(self, line: str) -> Completion:
        """Say what may stand in place of the end of a line.

        :param line: from its beginning to the cursor.
        """
        found = self._complete(line.lstrip())
        # What cannot be typed is no help, and never reaches the terminal.
        fine = [c for c in found.candidates if c.isprintable() and len(c) <= _NAME_MAX]
        return found._replace(candidates=fine[:_SHOWN_MAX])

    def _complete(self, line: str) -> Completion:
        if line.startswith("{"):
            return Completion("", ())
        word, rest = first_word(line)
        if not line[len(word) :]:
            return _fitting(word, self._first_words())
        alias = self._session.aliases.get(word)
        if alias is not None and word not in self._verbs:
            word, rest = first_word(f"{alias} {rest}")
        if word == "qmp":
            inner, arguments = first_word(rest)
            if not rest[len(inner) :]:
                return _fitting(inner, self._commands())
            return self._qmp(inner, arguments)
        if word in ("hmp", "info"):
            return self._hmp(rest if word == "hmp" else f"info {rest}")
        if word == "plug":
            return self._plug(rest)
        verb = self._verbs.get(word)
        if verb is None:
            return self._qmp(word, rest)
        vm = self._session.vm
        return complete(verb, rest, lambda: vm.last_index if vm else None, self._names)

    def _first_words(self) -> Iterable[str]:
        return {*self._verbs, *self._session.aliases, *self._commands()}

    def _commands(self) -> Iterable[str]:
        schema = self._knowledge.schema()
        return schema.commands if schema is not None else ()

    def _names(self, kind: str, token: str) -> Iterable[str]:
        """Return what a verb's argument may be, beside what the last reading says."""
        if kind in ("object", "device"):
            return [*self._knowledge.ids(), *self._steps(token)]
        if kind == "path":
            return self._steps(token)
        if kind == "driver":
            return self._knowledge.drivers()
        if kind in ("mark", "instant"):
            return self._session.marks
        if kind == "alias":
            return self._session.aliases
        if kind == "verb":
            return self._first_words()
        if kind == "event":
            schema = self._knowledge.schema()
            return schema.events if schema is not None else ()
        if kind == "target":
            from ...monitor.processes import running

            return [process.name for process in running()]
        return ()

    def _steps(self, token: str) -> list[str]:
        """Return the next step of a QOM path, as QEMU has it now."""
        if not token.startswith("/"):
            return []
        stem = token[: token.rindex("/")]
        out = []
        for node in self._knowledge.nodes(stem):
            if node.child and "/" not in node.name:
                out.append(f"{stem}/{node.name}")
        return out

    # The monitor's commands.

    def _hmp(self, line: str) -> Completion:
        before, _, token = line.rpartition(" ")
        return _fitting(token, self._knowledge.hmp(before.strip()))

    def _plug(self, rest: str) -> Completion:
        driver, arguments = first_word(rest)
        if not rest[len(driver) :]:
            return _fitting(driver, self._knowledge.drivers())
        return self._qmp("device_add", f"driver={driver} {arguments}", ("driver",))

    def _qmp(self, command: str, line: str, taken: Sequence[str] = ()) -> Completion:
        words = line.split(" ")
        token = words.pop()
        given = [word for word in words if "=" in word]
        key, equals, value = token.partition("=")
        schema = self._knowledge.schema()
        if schema is None or command not in schema.commands:
            return Completion(token, ())
        try:
            tree = tree_of(given)
        except UsageError:
            return Completion(token, ())
        members = {m.name: m for m in schema.members(command, tree)}
        extra = schema.open_ended(command)
        kind = tree.get(extra) if extra is not None else None
        kind = kind if isinstance(kind, str) else None
        if equals:
            found = self._values(command, key, value, members, kind, str(tree.get("path", "")))
            return _fitting(value, found)
        if "." in key:
            outer = key.split(".")[:-1]
            inner = schema.below(command, outer, tree)
            stem = ".".join(outer)
            return _fitting(token, [f"{stem}.{m.name}=" for m in inner])
        names = [f"{name}=" for name in members if name not in tree and name not in taken]
        if kind:
            known = self._knowledge.properties(kind)
            names += [f"{name}=" for name in known if name not in tree]
        return _fitting(token, names)

    def _values(
        self,
        command: str,
        key: str,
        value: str,
        members: Mapping[str, Member],
        kind: str | None,
        path: str,
    ) -> Iterable[str]:
        knowledge = self._knowledge
        if key == "driver" and command == "device_add":
            return knowledge.drivers()
        if key == "id" and command in _DEVICE_COMMANDS:
            return knowledge.ids()
        if key == "bus":
            return knowledge.buses(kind)
        if key == "path" or key.endswith("-path"):
            return [*self._steps(value), *(["/machine"] if not value else [])]
        if key == "property" and command in ("qom-get", "qom-set"):
            return [node.name for node in knowledge.nodes(path) if not node.child]
        if key in _NAMED:
            return knowledge.named(*_NAMED[key])
        schema = knowledge.schema()
        if schema is not None and key in members:
            return schema.values(members[key].type)
        if kind:
            prop = knowledge.properties(kind).get(key)
            if prop is not None and prop.type == "bool":
                return ("true", "false")
            described = prop.description if prop is not None else None
            if described is not None and "/" in described:
                # "on/off/auto" is how QEMU describes an enumeration.
                return [part.strip() for part in described.split("/")]
        return ()


def _fitting(token: str, names: Iterable[str]) -> Completion:
    fitting = sorted({name for name in names if name.startswith(token)})
    return Completion(token, fitting[:_SHOWN_MAX])
