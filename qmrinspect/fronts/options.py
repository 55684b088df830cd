"""Options of the command line
---------------------------

What stands beside the verb and its own arguments: the target, and how to reach it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from ..errors import UsageError
from ..text import printable

__all__ = ["ANYWHERE", "LIBVIRT", "TARGETS", "VALUED", "Options", "take", "target_options"]

#: Options before the verb, with what they take.
VALUED = {
    "--pid": "N",
    "--core": "FILE",
    "--exe": "QEMU",
    "--snapshot": "FILE",
    "--remote": "HOST:PORT",
    "--qmp": "SOCKET|HOST:PORT",
    "--layout": "FILE",
}
#: These may stand after the verb as well; the others might be a verb's own.
ANYWHERE = ("--qmp", "--layout", "--pid", "--core", "--exe", "--snapshot", "--remote")
#: These name a target.
TARGETS = ("--pid", "--core", "--snapshot", "--remote")


#: What the name of a target begins with that libvirt runs.
LIBVIRT = "libvirt:"


class Options:
    """What stands on the command line beside the verb and its arguments."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.values: dict[str, str] = {}
        self.debug = False
        self.help = False
        self.version = False
        self.json = False

    def get(self, option: str) -> str | None:
        """Return the value of an option, None when it was not given."""
        return self.values.get(option)

    def target_words(self) -> str | None:
        """Return what names the target, as a shell takes it; None when nothing does."""
        if self.name:
            return shlex.quote(self.name)
        names = (*TARGETS, "--exe")
        words = [word for o in names if o in self.values for word in (o, self.values[o])]
        return shlex.join(words) or None

    def check(self) -> None:
        """Refuse what contradicts itself.

        :raises UsageError: two targets, or an option that belongs to another one.
        """
        given = [option for option in TARGETS if option in self.values]
        if self.name:
            given.insert(0, self.name)
        if len(given) > 1:
            raise UsageError(f"{given[0]} and {given[1]} both name a target", "name one of them")
        if "--exe" in self.values and "--core" not in self.values:
            raise UsageError("--exe names the program of a core", "give the core: --core FILE")
        if "--layout" in self.values and "--snapshot" in self.values:
            raise UsageError("a saved snapshot needs no layout", "leave out --layout")
        pid = self.get("--pid")
        if pid is not None and not pid.isdigit():
            raise UsageError(f"--pid takes a number, not {printable(pid)!r}", "see qmr ps")


def target_options(words: Sequence[str]) -> Options:
    """Read a target that stands alone: a name or a pid, or an option, ``--qmp`` with it.

    :raises UsageError: it is none, or more than one.
    """
    options = Options()
    rest = list(words)
    while rest:
        if take(options, rest, VALUED, own=True):
            continue
        word = rest.pop(0)
        if word.startswith("-") or options.name:
            raise UsageError(f"{printable(word)} is no target", "ps lists what runs")
        options.name = word
    options.check()
    if not options.name and not any(option in options.values for option in TARGETS):
        raise UsageError("which target?", "attach NAME; ps lists what runs")
    return options


def take(options: Options, rest: list[str], valued: Iterable[str], own: bool = False) -> bool:
    """Take one option from the front of ``rest`` when there is one; say whether there was.

    :param valued: the options that take a value.
    :param own: whether what stands there may belong to the verb.
    :raises UsageError: an option that takes a value has none.
    """
    word = rest[0]
    flag = {"--debug": "debug"}.get(word)
    if not own:
        flag = flag or {
            "-h": "help",
            "--help": "help",
            "-V": "version",
            "--version": "version",
            "--json": "json",
        }.get(word)
    if flag:
        setattr(options, flag, True)
        rest.pop(0)
        return True
    name, equals, value = word.partition("=")
    if name not in valued:
        return False
    rest.pop(0)
    if not equals:
        if not rest:
            raise UsageError(f"{name} takes {VALUED[name]}", "see qmr --help")
        value = rest.pop(0)
    if not value.strip():
        raise UsageError(
            f"{name} takes {VALUED[name]}, and what was given is empty", "see qmr --help"
        )
    options.values[name] = value
    return True
