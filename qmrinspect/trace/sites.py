"""Where a process changes counts
------------------------------

Searches the program, and the modules of QEMU that it has mapped, for instructions that
change ``Object.ref``.  Where they are is the same for every process of a build.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import TargetError
from ..stacks.code import Code, Module
from .x86 import Write, find_writes

__all__ = ["Site", "new_sites", "sites_of"]

# The two functions that change a count in QEMU's source; anything else is an inlined copy.
_FUNCTIONS = ("object_ref", "object_unref")


class Site(NamedTuple):
    """An instruction that may change a count, in a process.

    :param watch: the address to break at.
    :param behind: the address of the next instruction.
    """

    module: Module
    write: Write
    watch: int
    behind: int


def sites_of(code: Code, offset: int, size: int) -> list[Site]:
    """Find every instruction that may change a count, the surest first.

    :param offset: of ``Object.ref``, bytes.
    :param size: of ``Object.ref``, bytes.
    :raises TargetError: none was found.
    """
    program = code.program()
    out = _in([program, *_modules(code.modules(), program)], offset, size)
    if not {site.write.operation for site in out}:
        raise TargetError(
            f"{program.path} has no instruction that changes a reference count",
            "the layout does not fit this QEMU (see qmr layout)",
        )
    return out


def new_sites(code: Code, offset: int, size: int) -> list[Site]:
    """Find those in modules that were mapped since :class:`Code` last looked."""
    return _in(_modules(code.refresh(), None), offset, size)


def _modules(modules: Iterable[Module], program: Module | None) -> list[Module]:
    return [m for m in modules if m is not program and m.is_of_qemu]


def _in(modules: Sequence[Module], offset: int, size: int) -> list[Site]:
    out = []
    for module in modules:
        known = [place for place in map(module.exported, _FUNCTIONS) if place is not None]
        for start, code in module.code():
            for write in find_writes(code, start, offset, size, known):
                out.append(Site(module, write, write.watch + module.bias, write.end + module.bias))
    return sorted(out, key=lambda site: site.write.doubt)
