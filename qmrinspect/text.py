"""Text from a VM, and words
-------------------------
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

__all__ = ["Word", "an", "natural", "nearest", "plural", "printable"]


class Word(str, Enum):
    """One of a few words: equal to its text, and printed as it."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(str(self.value), spec)


def printable(text: str, limit: int = 200) -> str:
    """Return a name from the VM's memory as text that is safe on a terminal.

    Control characters, escape sequences and what cannot be shown come out as
    backslash escapes; what is longer than ``limit`` characters is cut.
    """
    out = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii")
        for c in text[: limit + 1]
    )
    return out if len(text) <= limit else out[:limit] + "..."


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Return ``1 object``, ``2 objects``; ``nouns`` is the plural where that is no ``s`` more."""
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the names that are most like a word, the likest first; empty when none is."""
    import difflib  # only who mistypes needs it

    return difflib.get_close_matches(word, list(known), count, 0.5)


def an(word: str) -> str:
    """Return a word with its article: ``an intel-hda``, ``a usb-tablet``."""
    return f"{'an' if word[:1].lower() in 'aeiox8' else 'a'} {word}"


def natural(text: str) -> list[tuple[int, str]]:
    """Return a key to sort by, in which ``device[2]`` comes before ``device[10]``."""
    out: list[tuple[int, str]] = []
    digits = ""
    for char in text + "\0":
        if char.isascii() and char.isdigit():
            digits += char
            continue
        if digits:
            out.append((int(digits[:18]), ""))
            digits = ""
        out.append((-1, char))
    return out
