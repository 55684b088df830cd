"""Pretty-printers
---------------

One line for what ``print`` shows of an Object, a MemoryRegion, an AddressSpace or
a FlatView.  They look at the few fields that they need, through values of GDB,
and fall back to silence on memory that makes no sense.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Protocol

from ...text import printable

if TYPE_CHECKING:
    import gdb

__all__ = ["KINDS", "Names", "summary"]

# A reference count above this is no count.
_REF_MAX = 1 << 24
_NAME_MAX = 80
# A region that fills an address space has this many bytes.
_SIZE_MAX = 1 << 64


class Names(Protocol):
    """What is known of an object from the last reading."""

    def path(self, address: int | None) -> str | None:
        """Return the object's path, None when it is not known."""

    def bytes(self, value: gdb.Value) -> bytes | None:
        """Return the bytes of a value in memory, None when they cannot be read."""


def _string(value: gdb.Value) -> str | None:
    """Return the C string that a ``char *`` points to, None where it is NULL."""
    if not int(value):
        return None
    text = str(value.string("utf-8", "backslashreplace", length=_NAME_MAX))
    return printable(text.split("\0")[0])


def _chars(value: gdb.Value) -> str | None:
    """Like :func:`_string`, byte by byte: the memory may end right behind the string."""
    try:
        return _string(value)
    except Exception:
        out = bytearray()
        try:
            for i in range(_NAME_MAX):
                byte = int(value[i]) & 0xFF
                if not byte:
                    break
                out.append(byte)
        except Exception:
            return None
        return printable(out.decode("utf-8", "backslashreplace"))


def _type_name(obj: gdb.Value) -> str:
    kind = obj["class"]["type"]["name"]
    name = _chars(kind)
    if not name or not name.isprintable():
        raise ValueError("no QOM object")
    return name


def _ref(obj: gdb.Value) -> str:
    ref = int(obj["ref"])
    if not 0 <= ref <= _REF_MAX:
        raise ValueError("no QOM object")
    return f"{ref} ref" if ref == 1 else f"{ref} refs"


def _object(value: gdb.Value, address: int | None, names: Names) -> str:
    path = names.path(address)
    return " ".join(part for part in (_type_name(value), path, _ref(value)) if part)


def _region(value: gdb.Value, address: int | None, names: Names) -> str:
    obj = value["parent_obj"]
    # GDB makes no Python number of an Int128.
    raw, start = names.bytes(value["size"]), int(value["addr"])
    size = int.from_bytes(raw, "little") if raw is not None else None
    if size is not None and size > _SIZE_MAX:
        raise ValueError("no region")
    parts = [_type_name(obj), _chars(value["name"]) or names.path(address)]
    end = "?" if size is None else f"{start + size - 1:#x}" if size else "empty"
    parts.append(f"{start:#x}-{end}")
    if int(value["priority"]):
        parts.append(f"prio {int(value['priority'])}")
    parts.append(_ref(obj))
    owner = int(value["owner"])
    if owner:
        label = names.path(owner)
        parts.append(f"of {_owner(value)} {owner:#x}" if label is None else f"of {label}")
    return " ".join(part for part in parts if part)


def _owner(value: gdb.Value) -> str:
    try:
        return _type_name(value["owner"])
    except Exception:
        return "?"


def _space(value: gdb.Value, address: int | None, names: Names) -> str:
    root = int(value["root"])
    name = _chars(value["name"])
    where = f"root {_chars(value['root']['name']) or '?'} {root:#x}" if root else "no root"
    return f"{name or 'address space'}, {where}, view {int(value['current_map']):#x}"


def _view(value: gdb.Value, address: int | None, names: Names) -> str:
    ref, count, room = int(value["ref"]), int(value["nr"]), int(value["nr_allocated"])
    if not 0 <= ref <= _REF_MAX or count > room:
        raise ValueError("no flat view")
    root = int(value["root"])
    where = f"of {_chars(value['root']['name']) or '?'} {root:#x}" if root else "of nothing"
    return f"flat view {where}, {count} range{'s' * (count != 1)}, {ref} ref{'s' * (ref != 1)}"


KINDS: dict[str, Callable[[gdb.Value, int | None, Names], str]] = {
    "Object": _object,
    "MemoryRegion": _region,
    "AddressSpace": _space,
    "FlatView": _view,
}


def summary(kind: str, value: gdb.Value, address: int | None, names: Names) -> str | None:
    """Describe a structure in one line; None when it makes no sense.

    :param kind: one of :data:`KINDS`.
    :param value: the structure, a ``gdb.Value``.
    :param address: where it is, None of one that is in no memory.
    """
    try:
        return KINDS[kind](value, address, names)
    except Exception:
        # Whatever GDB raises over garbage: a printer must never fail.
        return None
