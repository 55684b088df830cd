"""Text from a VM
--------------
"""

from __future__ import annotations

__all__ = ["printable"]


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
