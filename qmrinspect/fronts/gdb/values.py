"""Functions and printers
----------------------
"""

from __future__ import annotations

import gdb
import gdb.printing

from ...errors import TargetError
from ...text import printable
from . import summaries
from .commands import errors
from .session import ADDRESS_MASK, Session
from .targets import memory
from .types import known_type

__all__ = ["Locate", "Printers"]


class Locate(gdb.Function):
    """Return the object that a QOM path, a device id or the end of a path names.

    $qmr("PATH") is an Object * where the type is known, else a void *."""

    def __init__(self, session: Session) -> None:
        super().__init__("qmr")
        self._session = session

    def invoke(self, *args: gdb.Value) -> gdb.Value:
        with errors(False):
            if len(args) != 1:
                raise TargetError('$qmr takes one object: $qmr("/machine/peripheral/ID")')
            place = args[0]
            index = self._session.index()
            code = place.type.strip_typedefs().code
            text = place.string() if code in (gdb.TYPE_CODE_ARRAY, gdb.TYPE_CODE_PTR) else None
            obj = index.resolve(text or f"{int(place):#x}")
            return gdb.Value(obj.address).cast(_pointer_type())
        raise AssertionError


def _pointer_type() -> gdb.Type:
    kind = known_type("Object") or known_type("void") or gdb.lookup_type("unsigned long")
    return kind.pointer()


class _Printer:
    def __init__(self, text: str) -> None:
        self._text = text

    def to_string(self) -> str:
        return self._text


class Printers(gdb.printing.PrettyPrinter):
    """The printers of :mod:`qmrinspect.fronts.gdb.summaries`, by type."""

    def __init__(self, session: Session) -> None:
        super().__init__("qmr")
        self._session = session

    def path(self, address: int | None) -> str | None:
        index = self._session.last_index()
        if index is None or address is None or address not in index.snapshot.objects:
            return None
        return printable(index.path(address)) or None

    def bytes(self, value: gdb.Value) -> bytes | None:
        address, size = value.address, value.type.sizeof
        return memory(int(address), size) if address is not None else None

    def __call__(self, value: gdb.Value) -> _Printer | None:
        try:
            kind = value.type.strip_typedefs()
            pointer = kind.code == gdb.TYPE_CODE_PTR
            if pointer:
                kind = kind.target().strip_typedefs()
            name = kind.tag
            if name is None or name not in summaries.KINDS:
                return None
            start = ""
            if pointer:
                address: int | None = int(value) & ADDRESS_MASK
                start = f"({name} *) {address:#x} "
                value = value.dereference()
            else:
                address = int(value.address) & ADDRESS_MASK if value.address is not None else None
            text = summaries.summary(name, value, address, self)
        except gdb.error:
            return None
        return _Printer(f"{start}<{text}>") if text is not None else None
