"""Completion
----------

What a half-typed line may go on with: options, QOM paths step by step, device
ids, names of address spaces.  It looks at a snapshot and never at the VM.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Callable, NamedTuple

from ..index import LEAKED, Index
from ..verbs.verb import Argument, Verb

__all__ = ["Completion", "complete"]

# More than this helps nobody, and slows the terminal down.
_SHOWN_MAX = 500


class Completion(NamedTuple):
    """What may stand in place of ``token``, the end of the line.

    :param file: whether a file name is wanted, which the front completes itself.
    """

    token: str
    candidates: Sequence[str]
    file: bool = False


def complete(
    verb: Verb,
    line: str,
    index: Callable[[], Index | None],
    more: Callable[[str, str], Iterable[str]] = lambda kind, token: (),
) -> Completion:
    """Complete the arguments of a verb.

    :param line: what follows the verb, up to the cursor.
    :param index: gives the last reading, None when there is none; it is asked only
        where names of objects are wanted.
    :param more: what else a front knows for a kind of argument and a token: an object may
        have come since the last reading.
    """
    words = line.split()
    token = words.pop() if line and not line[-1].isspace() else ""
    argument = _wanted(verb, words, token)
    if token.startswith("-"):
        names = [name for a in verb.arguments for name in a.names if name.startswith("--")]
        names += ["--json", "--wide"] * verb.reports + ["--debug"]
        return _matching(token, names)
    if argument is None:
        return Completion(token, ())
    choices = argument.options.get("choices")
    if isinstance(choices, Iterable):
        return _matching(token, [str(choice) for choice in choices])
    if argument.completes == "file":
        wanted = "instant" if argument.names[0] in ("before", "after") else "file"
        return _matching(token, more(wanted, token))._replace(file=True)
    names = list(more(argument.completes, token)) if argument.completes else []
    if argument.completes not in ("object", "path", "device", "space"):
        return _matching(token, names)
    found = index()
    if found is None:
        return _matching(token, names)
    if argument.completes in ("object", "path"):
        # A name in a path may contain spaces: "vga ioports remapped[0]".
        path = re.search(r"(?:^|\s)(/.*)$", line)
        if path:
            steps = {*_steps(found, path.group(1)), *more("path", path.group(1))}
            return Completion(path.group(1), sorted(steps)[:_SHOWN_MAX])
    if argument.completes in ("object", "device"):
        devices = found.snapshot.devices.values()
        here = [d for d in devices if d.id]
        names += [d.id for d in here if found.in_tree(d.address)]
        if argument.completes == "object":
            names += [d.id + LEAKED for d in here if not found.in_tree(d.address)]
    elif argument.completes == "space":
        names += [space.name for space in found.snapshot.spaces.values()]
    if argument.completes in ("object", "path") and not token:
        names += _steps(found, "/")
    return _matching(token, names)


def _matching(token: str, names: Iterable[str]) -> Completion:
    fitting = sorted({name for name in names if name.startswith(token)})
    return Completion(token, fitting[:_SHOWN_MAX])


def _wanted(verb: Verb, words: Sequence[str], token: str) -> Argument | None:
    """Return the argument that the token stands for."""
    options = {name: a for a in verb.arguments for name in a.names if name.startswith("-")}
    places = [a for a in verb.arguments if not a.names[0].startswith("-")]
    if words and words[-1] in options:
        option = options[words[-1]]
        if option.options.get("action") not in ("store_true", "store_false", "count"):
            return option
    taken = 0
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in options:
            action = options[word].options.get("action")
            skip = action not in ("store_true", "store_false", "count")
        elif not word.startswith("--"):
            taken += 1
    if not places:
        return None
    # Further words belong to the last one: it repeats, or has spaces.
    return places[min(taken, len(places) - 1)]


def _steps(index: Index, path: str) -> list[str]:
    """Return the next step of a path: the children of its last full part that fit."""
    cut = max((m.start() for m in re.finditer(r"(?<!\\)/", path)), default=0)
    stem, part = path[:cut], path[cut + 1 :]
    at = index.root
    for name in re.split(r"(?<!\\)/", stem)[1:]:
        wanted = name.replace("\\/", "/")
        below = {prop.name: prop.target for prop in index.children.get(at, ())}
        if wanted not in below:
            return []
        at = below[wanted]
    out = []
    for prop in index.children.get(at, ()):
        name = prop.name.replace("/", "\\/")
        if name.startswith(part) and name.isprintable():
            out.append(f"{stem}/{name}")
            if index.children.get(prop.target):
                # The front puts a space after what is complete; this is not, maybe.
                out.append(f"{stem}/{name}/")
    return sorted(out)[:_SHOWN_MAX]
