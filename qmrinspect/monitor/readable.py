"""Whether a QEMU can be read
--------------------------

Only of a program with a layout of its own, by its build id or from its debug
information, that is known beforehand; of any other one process is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import QmrError
from ..layout.dwarf import debug_info
from ..layout.find import described
from ..reading import Reader
from ..target.proc import command_line
from ..target.process import Process
from .processes import Running

__all__ = ["Verdict", "judge"]


class Verdict(NamedTuple):
    """Whether a process can be read.

    :param layout: where its layout comes from, None where none is known.
    :param refused: why it cannot be read, None when it can.
    """

    layout: str | None
    refused: str | None


def judge(found: Sequence[Running]) -> list[tuple[Running, Verdict]]:
    """Return a verdict for each process that still runs, in the same order."""
    known: dict[tuple[int, int] | None, str] = {}
    out = []
    for process in found:
        if process.refused:
            out.append((process, Verdict(None, process.refused)))
            continue
        try:
            layout = _layout(process.pid, known.get(process.program))
        except QmrError as error:
            if command_line(process.pid):
                out.append((process, Verdict(None, error.text)))
        else:
            known[process.program] = layout
            out.append((process, Verdict(layout, None)))
    return out


def _layout(pid: int, known: str | None) -> str:
    target = Process(pid)
    try:
        # A download is nothing for a list.
        debug = debug_info(target, servers=False)
        reader = Reader(target, debug=debug)
        reader.need_machine()
        return known or described(debug) or reader.read().target.layout
    finally:
        target.close()
