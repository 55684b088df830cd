"""Functions that classes name
---------------------------

What a stripped program does not export is often a method of a QOM class, and the classes
are in memory: a pointer to a function's start is called after the type and the method,
``qxl:PCIDeviceClass.realize``, its place in the class where that is not known,
``cpu:class+0x148``, or what QOM calls it for, ``pci-xhci:instance_init``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..layout import Layout

__all__ = ["class_functions"]

_CLASS_MAX = 8192
_DEPTH_MAX = 64
_NAME_MAX = 128
_WORD = struct.Struct("<Q")

# What comes before ``abstract`` in a TypeImpl, by its distance in words (qom/object.c).
_HOOKS = {1: "instance_finalize", 2: "instance_post_init", 3: "instance_init", 6: "class_init"}

# The structure of a type's class, for the types that many derive from.
_STRUCTS = {
    "device": "DeviceClass",
    "pci-device": "PCIDeviceClass",
    "usb-device": "USBDeviceClass",
    "scsi-device": "SCSIDeviceClass",
    "virtio-device": "VirtioDeviceClass",
    "virtio-pci": "VirtioPCIClass",
    "virtio-serial-port": "VirtIOSerialPortClass",
}

Peek = Callable[[int, int], "bytes | None"]


class _Type(NamedTuple):
    name: str
    parent: int
    klass: int
    size: int
    hooks: tuple[tuple[int, str], ...]


def class_functions(
    peek: Peek, layout: Layout, objects: Iterable[int], is_function: Callable[[int], bool]
) -> dict[int, str]:
    """Return names of functions by their address in the process.

    :param peek: reads memory; a class never changes and is never freed.
    :param objects: objects of the types whose classes are looked at.
    :param is_function: whether a function starts at an address.
    """
    types: dict[int, _Type] = {}
    for address in objects:
        klass = _pointer(peek, address + layout.offset("Object", "class"))
        at = _pointer(peek, klass + layout.offset("ObjectClass", "type")) if klass else None
        for _ in range(_DEPTH_MAX):
            if not at or at in types:
                break
            found = _read_type(peek, layout, at)
            if found is None:
                break
            types[at] = found
            at = found.parent
    out: dict[int, str] = {}
    # Parents first: what a class has from its parent is called after the parent.
    for address in sorted(types, key=lambda address: _depth(types, address)):
        found = types[address]
        for function, hook in found.hooks:
            if is_function(function):
                out.setdefault(function, f"{found.name}:{hook}")
        parent = types.get(found.parent)
        for offset, function in _own_words(peek, found, parent):
            if is_function(function):
                method = _method(types, layout, address, offset)
                out.setdefault(function, f"{found.name}:{method or f'class+{offset:#x}'}")
    return out


def _method(types: dict[int, _Type], layout: Layout, address: int, offset: int) -> str | None:
    """Return ``Struct.method`` at an offset in a type's class, None when it is not known."""
    for _ in range(_DEPTH_MAX):
        found = types.get(address)
        if found is None:
            break
        name = _STRUCTS.get(found.name)
        struct = layout.structs.get(name) if name is not None else None
        fields = struct.fields if struct is not None else {}
        for method, (at, _size) in fields.items():
            if at == offset:
                return f"{name}.{method}"
        address = found.parent
    return None


def _read_type(peek: Peek, layout: Layout, address: int) -> _Type | None:
    raw = peek(address, layout.size("TypeImpl"))
    if raw is None:
        return None
    unpack = layout.unpacker("TypeImpl", "name", "parent_type", "class", "class_size")
    name, parent, klass, size = unpack(raw)
    text = _string(peek, name)
    if text is None:
        return None
    before = layout.offset("TypeImpl", "abstract")
    hooks = tuple(
        (_WORD.unpack_from(raw, before - 8 * back)[0], hook) for back, hook in _HOOKS.items()
    )
    return _Type(text, parent, klass, min(size, _CLASS_MAX), hooks)


def _own_words(peek: Peek, of: _Type, parent: _Type | None) -> Iterable[tuple[int, int]]:
    """Yield (offset, word) of what a class does not have from its parent."""
    size = of.size or (parent.size if parent else 0)
    raw = peek(of.klass, size & ~7) if of.klass and size else None
    if raw is None:
        return
    inherited = b""
    if parent is not None and parent.klass:
        inherited = peek(parent.klass, min(parent.size, size) & ~7) or b""
    for offset in range(0, len(raw), 8):
        if raw[offset : offset + 8] != inherited[offset : offset + 8]:
            yield offset, _WORD.unpack_from(raw, offset)[0]


def _depth(types: dict[int, _Type], address: int) -> int:
    depth = 0
    while depth < _DEPTH_MAX and types[address].parent in types:
        address, depth = types[address].parent, depth + 1
    return depth


def _pointer(peek: Peek, address: int) -> int | None:
    raw = peek(address, 8)
    return int(_WORD.unpack(raw)[0]) if raw is not None else None


def _string(peek: Peek, address: int) -> str | None:
    """Return the name at an address, None where there is none."""
    for size in (_NAME_MAX, 16):  # a short name may end its page
        raw = peek(address, size) if address else None
        if raw is not None and b"\0" in raw:
            text = raw[: raw.index(0)].decode("ascii", "replace")
            return text if text and text.isprintable() else None
    return None
