"""I/O channels and who holds them
--------------------------------

QIO objects are never in the QOM tree.  Besides the fields of character devices
(:mod:`qmrinspect.walk.fields`), what holds them are GLib event sources and the
structures of the VNC and NBD servers; these are found by the pointers to the
object, and believed when the structure around the pointer holds together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Callable, NamedTuple

from ..snapshot import Obj, Slot
from ..target.image import Unreadable
from .context import LIST_MAX, Context, Record
from .scan import find_words

__all__ = ["read_channels"]


class _Shape(NamedTuple):
    """A structure that is recognised from a pointer in one of its fields."""

    kind: str
    struct: str
    field: str
    target: str
    holds: Callable[[Context, int, str], bool]


def _is_source(context: Context, address: int, struct: str) -> bool:
    """Whether there is an attached ``GSource`` at ``address`` (glib/gmain.c).

    Its functions are constants of QEMU, its context is set, and its neighbours in
    the context's list point back to it.
    """
    source = context.record("_GSource", address)
    low, high = context.statics.program
    if not low <= source["source_funcs"] < high or not 0 < source["ref_count"] < 1000:
        return False
    if not source["context"] or not _polls(context, source, struct):
        return False
    layout, image = context.layout, context.image
    before, after = source["prev"], source["next"]
    if before and image.u64(before + layout.offset("_GSource", "next")) != address:
        return False
    return not after or image.u64(after + layout.offset("_GSource", "prev")) == address


def _polls(context: Context, source: Record, struct: str) -> bool:
    """Whether a source for a file descriptor has its own descriptor on its poll list.

    The list is freed with the source, so that the remains of one are told.
    """
    if not context.layout.has(struct, "fd") or "poll_fds" not in source:
        return True
    own = source.address + context.layout.offset(struct, "fd")
    # A GSList begins with its data.
    return bool(source["poll_fds"]) and context.image.u64(source["poll_fds"]) == own


def _on_queue(link: str, base: str = "") -> Callable[[Context, int, str], bool]:
    """Return a test for a structure whose QTAILQ link closes.

    :param base: the structure at its start that has the link, if it is not its own.
    """

    def holds(context: Context, address: int, struct: str) -> bool:
        # tqe_circ is {next, prev}: the link before points to this element.
        before = context.image.u64(address + context.layout.offset(base or struct, link) + 8)
        return bool(before) and context.image.u64(before) == address

    return holds


_linked = _on_queue("next", "NetClientState")


def _is_stream(context: Context, address: int, struct: str) -> bool:
    """Whether there is a netdev whose description has the size of ``struct``."""
    layout, image = context.layout, context.image
    if not layout.has("NetClientInfo", "size") or not _linked(context, address, struct):
        return False
    low, high = context.statics.program
    info = image.u64(address + layout.offset("NetClientState", "info"))
    if not low <= info < high:
        return False
    return image.u64(info + layout.offset("NetClientInfo", "size")) == layout.size(struct)


_SHAPES = (
    _Shape("watch", "QIOChannelFDSource", "ioc", "qio-channel", _is_source),
    _Shape("watch", "QIOChannelTLSSource", "tioc", "qio-channel-tls", _is_source),
    _Shape("watch", "QIOChannelWebsockSource", "wioc", "qio-channel-websock", _is_source),
    _Shape("watch", "QIOChannelBufferSource", "bioc", "qio-channel-buffer", _is_source),
    _Shape("vnc-client", "VncState", "sioc", "qio-channel-socket", _on_queue("next")),
    _Shape("vnc-client", "VncState", "ioc", "qio-channel", _on_queue("next")),
    _Shape("vnc-display", "VncDisplay", "listener", "qio-net-listener", _on_queue("next")),
    _Shape("vnc-display", "VncDisplay", "wslistener", "qio-net-listener", _on_queue("next")),
    _Shape("vnc-display", "VncDisplay", "tlscreds", "tls-creds", _on_queue("next")),
    _Shape("netdev", "NetStreamState", "listener", "qio-net-listener", _is_stream),
    _Shape("netdev", "NetStreamState", "listen_ioc", "qio-channel", _is_stream),
    _Shape("netdev", "NetStreamState", "ioc", "qio-channel", _is_stream),
    _Shape("nbd-client", "NBDClient", "sioc", "qio-channel-socket", _on_queue("next")),
    _Shape("nbd-client", "NBDClient", "ioc", "qio-channel", _on_queue("next")),
)

# An irq is not looked for by its holders' shapes: it matters whether there is any.
_SEARCHED = ("qio-channel", "qio-net-listener", "tls-creds", "irq")


def read_channels(context: Context, objects: Mapping[int, Obj]) -> Iterator[Slot]:
    """Yield the references on I/O channels, listeners and TLS credentials.

    For irqs, one word that points to each is a slot of the kind ``pointed``.
    """
    for address, obj in objects.items():
        if obj.type == "qio-net-listener":
            try:
                yield from _listener(context, address)
            except Unreadable:
                context.note(address, "a network listener cannot be read")
    wanted = {
        address
        for address, obj in objects.items()
        if any(context.is_a(obj.type, name) for name in _SEARCHED)
    }
    pointed: set[int] = set()
    for word, target in find_words(context.image, wanted, context.known.targets):
        if objects[target].type == "irq":
            if target not in pointed:
                pointed.add(target)
                yield Slot("pointed", word, "", target)
            continue
        for shape in _shapes(context, objects[target].type):
            start = word - context.layout.offset(shape.struct, shape.field)
            try:
                if shape.holds(context, start, shape.struct) and _whole(
                    context, start, shape.struct, objects
                ):
                    yield Slot(shape.kind, start, f"{shape.struct}.{shape.field}", target)
            except Unreadable:
                continue


def _whole(context: Context, start: int, struct: str, objects: Mapping[int, Obj]) -> bool:
    """Whether all fields of a structure that point to objects do, or are NULL."""
    for shape in _SHAPES:
        if shape.struct == struct and context.layout.has(struct, shape.field):
            target = context.image.u64(start + context.layout.offset(struct, shape.field))
            obj = objects.get(target)
            if target and (obj is None or not context.is_a(obj.type, shape.target)):
                return False
    return True


def _shapes(context: Context, type_name: str) -> Sequence[_Shape]:
    return [
        shape
        for shape in _SHAPES
        if context.layout.has(shape.struct, shape.field) and context.is_a(type_name, shape.target)
    ]


def _listener(context: Context, address: int) -> Iterator[Slot]:
    """The sockets of a listener, and the watches that hold the listener itself.

    io/net-listener.c qio_net_listener_set_client_func_full: each watch is given the
    listener with a reference.
    """
    row = context.record("QIONetListener", address)
    count = row.get("nsioc")
    if count > LIST_MAX:
        context.note(address, f"a network listener claims {count} sockets")
        return
    for i in range(count):
        if "sioc" in row:
            socket = context.image.u64(row["sioc"] + 8 * i)
            yield Slot("listener", address, f"QIONetListener.sioc[{i}]", socket)
        if "io_source" in row and context.image.u64(row["io_source"] + 8 * i):
            yield Slot("watch", address, f"QIONetListener.io_source[{i}]", address)
