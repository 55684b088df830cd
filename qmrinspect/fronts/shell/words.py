"""Words of the command line
-------------------------

Which word names the target, which the verb, and which are the verb's own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import UsageError
from ...text import printable
from ..options import ANYWHERE, LIBVIRT, TARGETS, VALUED, Options, take

if TYPE_CHECKING:
    from ...monitor.processes import Running
    from ...verbs.verb import Verb

__all__ = ["repl_options", "split"]


def split(words: Sequence[str]) -> tuple[Options, str | None, list[str]]:
    """Return the options, the verb (None for none) and the verb's own words.

    :raises UsageError: there is no such verb, or no such option.
    """
    from .table import EVERY, find_verb

    options = Options()
    places: list[str] = []
    rest = list(words)
    while rest:
        word = rest[0]
        if take(options, rest, VALUED):
            continue
        if word.startswith("-") and word != "-":
            raise UsageError(f"there is no option {printable(word)}", "see qmr --help")
        if not word:
            raise UsageError("the target is empty", "leave it out, or name one: see qmr ps")
        rest.pop(0)
        places.append(word)
        # A first word that is no verb is the target; then the verb has to come.
        if word in EVERY or len(places) == 2:
            break
        if not any(other in EVERY for other in rest) and not _could_be_target(word):
            find_verb(word)
    own: list[str] = []
    while rest:
        if rest[0] == "--":
            own += rest
            break
        if not take(options, rest, ANYWHERE, own=True):
            own.append(rest.pop(0))
    if not places:
        return options, None, own
    options.name = None if places[0] in EVERY and len(places) == 1 else places[0]
    if len(places) == 1 and options.name:
        if options.help or options.version:
            return options, None, own
        raise UsageError(
            f"{printable(places[0])} is no verb, and as a target it wants one",
            f"say what to do: qmr {printable(places[0])} check; qmr --help lists all verbs",
        )
    verb = find_verb(places[-1])
    if not options.name and not any(option in options.values for option in TARGETS):
        own = _without_target(options, verb, own)
    return options, verb.name, own


def repl_options(words: Sequence[str]) -> Options | None:
    """Return the options of a plain ``qmr [TARGET] repl``, None for anything else.

    The prompt is to be there at once, so that this looks into no verb.
    """
    options = Options()
    rest = list(words)
    while len(rest) > 1:
        if not take(options, rest, VALUED, own=True):
            # A name might be a verb's.
            if options.name or not (rest[0].isdigit() or rest[0].startswith(LIBVIRT)):
                return None
            options.name = rest.pop(0)
    if rest != ["repl"]:
        return None
    options.check()
    return options


def _running() -> Sequence[Running]:
    from ...monitor.processes import running

    return running()


def _could_be_target(word: str) -> bool:
    # With one more word it may be the verb that is misspelt.  A number, and the name
    # of a VM that runs, are targets all the same.
    if word.isdigit() or word.startswith(LIBVIRT):
        return True
    return any(process.name == word for process in _running())


def _without_target(options: Options, verb: Verb, own: list[str]) -> list[str]:
    """Take the target out of a verb's words: it may stand behind the verb as well.

    It is one only where a VM of that name, or that pid, runs, and where the other words make
    sense without it.
    """
    from ...verbs.verb import parser_for

    many = any(a.options.get("nargs") in ("*", "+", "...") for a in verb.arguments)
    places = [n for n, word in enumerate(own[: 1 if many else None]) if word[:1] not in ("", "-")]
    if not places or {"-h", "--help"} & set(own):
        return own
    names: set[str] = set()
    for process in _running():
        names |= {process.name, str(process.pid)}
    for n in places:
        word = own[n]
        if not word.startswith(LIBVIRT) and (word not in names or os.path.exists(word)):
            continue
        others = own[:n] + own[n + 1 :]
        try:
            parser_for(verb).parse_args(others)
        except (UsageError, SystemExit):
            continue
        options.name = word
        return others
    return own
