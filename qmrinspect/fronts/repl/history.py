"""The lines of earlier sessions
-----------------------------
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from ...masking import masked
from ...outfile import open_private

__all__ = ["open_history"]


def open_history() -> History:
    """Return the user's history; one that ends with the session where no file can be written."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(
        os.path.expanduser("~"), ".local", "state"
    )
    path = Path(base) / "qmr" / "history"
    try:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        os.close(open_private(str(path), os.O_WRONLY | os.O_CREAT))
    except OSError:
        return InMemoryHistory()
    return _History(str(path))


class _History(FileHistory):
    """A history that keeps no secrets, and ends with the session where the disk is full."""

    def append_string(self, string: str) -> None:
        super().append_string(masked(string))

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)
