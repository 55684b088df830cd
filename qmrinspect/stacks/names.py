"""Names of frames
---------------

A frame is called by the best name there is: function and line where there is debug
information, an exported function, a method of a class, or its place in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..layout import Layout
from ..target.image import Target
from .classes import class_functions
from .code import Code, Module
from .lines import Line, find_lines, relative, source_root

__all__ = ["Frame", "Names"]

# Where the changes of counts are made for others: their callers are what is asked for.
_PLUMBING_FILES = re.compile(
    r"^(qom/|include/|util/|(system|softmmu)/(memory|physmem)\.c|(memory|exec)\.c"
    r"|hw/core/(qdev|bus|irq|gpio|sysbus|resettable|clock|qdev-clock|qdev-properties)[^/]*\.c)"
)
_PLUMBING_NAMES = re.compile(
    r"^(object_|type_|memory_region_|address_space_|flatview_|qemu_(allocate|init|extend)_irq"
    r"|container_|qdev_|device_|bus_|qbus_|sysbus_|resettable_|clock_|g_|user_creatable_)"
)
_ROOT_FILE = "qom/object.c"
# Suffixes of what a compiler makes of one function: parts, clones, cold paths.
_CLONE = re.compile(r"\.(part|constprop|isra|cold|lto_priv|localalias)\b.*$")


class Frame(NamedTuple):
    """One function of a call stack; inlined ones have a frame of their own.

    :param file: in QEMU's source tree, and the line in it; None when unknown.
    :param place: the file and link-time address of the instruction, ``qemu+0x711f12``.
    :param function: process address of the function's start, None when unknown.
    :param how: ``line``, ``symbol``, ``class`` or ``address``: what the name rests on.
    :param plumbing: whether it is QEMU's own machinery of objects and regions.
    """

    name: str
    file: str | None
    line: int | None
    place: str
    function: int | None
    how: str
    plumbing: bool

    def text(self) -> str:
        """Return name, file and line as people read them."""
        return self.name if self.line is None else f"{self.name} ({self.file}:{self.line})"


class Names:
    """Names what is in the code of one process; what was found is kept.

    :param target: the process.
    :param layout: of its structures.
    :param code: what it runs.
    """

    def __init__(self, target: Target, layout: Layout, code: Code) -> None:
        self._target = target
        self._layout = layout
        self._code = code
        self._lines: dict[int, list[Line]] = {}
        self._asked: set[int] = set()
        self._roots: dict[str, str | None] = {}
        self._methods: dict[int, str] = {}
        self._frames: dict[tuple[int, bool], tuple[Frame, ...]] = {}
        self._qemu: dict[str, bool] = {}

    def learn_classes(self, objects: Iterable[int]) -> None:
        """Name the methods of the classes of objects, which must be alive."""
        for address, name in class_functions(
            self._target.peek, self._layout, objects, self._is_function
        ).items():
            self._methods.setdefault(address, name)
        self._frames.clear()

    def learn_lines(self, pcs: Iterable[tuple[int, bool]]) -> None:
        """Look up the source of frames at once: one by one takes long.

        :param pcs: address, and whether it is the frame's own and not a return address.
        """
        wanted: dict[Module, list[int]] = {}
        for pc, exact in pcs:
            at = pc if exact else pc - 1
            module = self._code.find(at)
            if module is not None and at not in self._asked and self._is_qemu(module):
                self._asked.add(at)
                wanted.setdefault(module, []).append(at - module.bias)
        for module, addresses in wanted.items():
            if module.path not in self._roots:
                self._roots[module.path] = None
                known = module.exported("object_ref")
                if known is not None:
                    addresses = [*addresses, known[0]]
            found = find_lines(module.elf, module.file, addresses)
            self._roots[module.path] = self._roots[module.path] or source_root(found, _ROOT_FILE)
            for address, lines in found.items():
                self._lines[address + module.bias] = lines
        if wanted:
            self._frames.clear()

    def frames(self, pcs: Sequence[int]) -> list[Frame]:
        """Return the frames of a call stack, innermost first, inlined ones included."""
        out: list[Frame] = []
        for i, pc in enumerate(pcs):
            out += self.at(pc, i == 0)
        return out

    def at(self, pc: int, exact: bool) -> tuple[Frame, ...]:
        """Return the frames of one address.

        :param exact: whether it is that of the next instruction, not one returned to.
        """
        key = pc, exact
        if key not in self._frames:
            self._frames[key] = tuple(self._name(pc if exact else pc - 1))
        return self._frames[key]

    def _name(self, at: int) -> list[Frame]:
        module = self._code.find(at)
        if module is None:
            return [Frame(f"{at:#x}", None, None, f"{at:#x}", None, "address", False)]
        address = at - module.bias
        short = "qemu" if module.elf is self._target.elf() else module.name
        place = f"{short}+{address:#x}"
        start, symbol = module.frames.start(address), module.symbol(address)
        begin = start if symbol is None else symbol[0]
        function = begin + module.bias if begin is not None else None
        lines = self._lines.get(at)
        if lines:
            # The program may be built from parts with source trees of their own.
            root = self._roots.get(module.path) or self._main_root()
            out = []
            for line in lines:
                file = relative(line.file, root) if line.file is not None else None
                plumbing = file is not None and bool(_PLUMBING_FILES.match(file))
                name = _CLONE.sub("", line.function)
                out.append(Frame(name, file, line.line, place, function, "line", plumbing))
            return out
        if symbol is not None:
            name = _CLONE.sub("", symbol[1])
            plumbing = not self._is_qemu(module) or bool(_PLUMBING_NAMES.match(name))
            return [Frame(name, None, None, place, function, "symbol", plumbing)]
        method = self._methods.get(function) if function is not None else None
        if method is not None:
            return [Frame(method, None, None, place, function, "class", False)]
        name = place if start is None else f"{short}+{start:#x}"
        near = address if start is None else start
        plumbing = not self._is_qemu(module) or self._among_plumbing(module, near)
        return [Frame(name, None, None, place, function, "address", plumbing)]

    def _main_root(self) -> str | None:
        return next(filter(None, self._roots.values()), None)

    def _among_plumbing(self, module: Module, address: int) -> bool:
        """Whether a nameless function lies among those of one of QEMU's own files.

        The functions of a source file lie together, so that those on both sides of a static
        one tell its file.
        """
        return all(name and _PLUMBING_NAMES.match(name) for name in module.neighbours(address))

    def _is_function(self, address: int) -> bool:
        module = self._code.find(address)
        return module is not None and module.frames.is_start(address - module.bias)

    def _is_qemu(self, module: Module) -> bool:
        if module.path not in self._qemu:
            known = module.elf is self._target.elf() or module.is_of_qemu
            self._qemu[module.path] = known
        return self._qemu[module.path]
