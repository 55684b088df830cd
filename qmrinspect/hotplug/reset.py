"""A reset that kills QEMU
----------------------

Foretold by a reading, and told when it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Callable

from ..audit.unplugging import death_by_reset
from ..errors import QmrError
from ..index import Index
from ..monitor.base import MonitorLost
from ..snapshot import Snapshot

__all__ = ["death_explained"]


@contextmanager
def death_explained(command: str, read: Callable[[], Snapshot]) -> Iterator[None]:
    """Say of a ``system_reset`` that kills QEMU what killed it, where a reading foretells that.

    :param command: what is run; nothing is read for another one.
    :raises MonitorLost: QEMU died of it.
    """
    why = ""
    if command == "system_reset":
        # What cannot be read can be driven all the same.
        with suppress(QmrError):
            index = Index(read())
            rows = index.snapshot.unplugging
            why = "; ".join(filter(None, (death_by_reset(index, row) for row in rows)))
    try:
        yield
    except MonitorLost as error:
        if not why:
            raise
        raise MonitorLost(f"QEMU died of {command}: {why}", error.hint) from error
