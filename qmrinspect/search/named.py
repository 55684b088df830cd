"""What has a name and is no object
--------------------------------

Block nodes and backends, netdevs and jobs of one name, found by the name itself in live
memory, and who uses each; and who uses a chardev.  Structures are recognised by their size, by what
they begin with, and by pointers that lead back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Callable, NamedTuple

from ..heap.model import LIVE, Block
from ..records.context import Context
from ..records.scan import find_into
from ..snapshot import Obj
from ..target.image import Unreadable
from .functions import Code
from .pointers import field_of

__all__ = ["Named", "Names", "User"]

# malloc rounds a size up by so much at most.
_ROUNDED = 32
_NAME_MAX = 4096
_USERS_MAX = 100
_DEPTH_MAX = 64


class User(NamedTuple):
    """Who uses something.

    :param kind: ``object``, ``block-node``, ``block-backend``, ``block-export``, ``job``,
        ``netdev``, ``monitor``, ``variable`` or ``block``: a structure that is not known.
    :param object: the QOM object that it is or is part of, 0 when it is none.
    :param name: where it has one.
    :param field: what points there, where that is known.
    """

    kind: str
    address: int
    object: int
    name: str
    field: str = ""


class Named(NamedTuple):
    """Something that has a name.

    :param kind: ``block-node``, ``block-backend``, ``netdev``, ``job`` or ``object``.
    :param deleted: whether the user has deleted it, and it lives on for who uses it.
    """

    kind: str
    name: str
    address: int
    users: tuple[User, ...]
    deleted: bool = False


class Names:
    """Looks names up in one image.

    :param objects: of the same instant.
    """

    def __init__(self, context: Context, objects: Mapping[int, Obj]) -> None:
        self._context, self._objects = context, objects
        self._home = context.enclosing(objects)
        self._heap = context.live.heap
        self._program = Code(context.image.mappings, context.statics.program).all

    def named(self, name: str) -> list[Named]:
        """Return what has a name and is no object; nothing where the heap is not known."""
        out: dict[int, Named] = {}
        if not name or len(name) > _NAME_MAX:
            return []
        strings = []
        for at in self._text(name):
            block = self._block(at)
            if block is not None and at == block.start:
                strings.append(at)
            elif block is not None and self._is("BlockDriverState", "node_name", block, at):
                out[block.start] = Named("block-node", name, block.start, self._nodes(block.start))
        for word, _ in self._into([(at, at + 1) for at in strings]):
            found = self._of(name, word)
            if found is not None:
                out.setdefault(found.address, found)
        return sorted(out.values())

    def object(self, name: str | None, address: int, is_a: Callable[[str, str], bool]) -> Named:
        """Return who uses an object without a reference: a front end, or by its name, if any."""
        users: list[User] = []
        if is_a(self._objects[address].type, "chardev"):
            users += self._front(address)
        if name:
            users += self._mentions(name, address)
        distinct = {user.object or user: user for user in users}
        return Named("object", name or "", address, tuple(distinct.values()))

    def _mentions(self, name: str, address: int) -> Iterator[User]:
        """Yield the objects that keep a name as a text of their own: of a secret, say."""
        strings = [at for at in self._text(name) if self._starts_at(at)]
        for word, _ in self._into([(at, at + 1) for at in strings]):
            user = self._user(word)
            if user.object and not self._below(user.object, address):
                yield user

    def _below(self, address: int, top: int) -> bool:
        """Whether an object is ``top`` or a part of it: a region is called after its owner."""
        for _ in range(_DEPTH_MAX):
            if address in (top, 0):
                break
            obj = self._objects.get(address)
            address = obj.parent if obj is not None else 0
        return address == top

    def _front(self, address: int) -> tuple[User, ...]:
        layout = self._context.layout
        field = "be" if layout.has("Chardev", "be") else "fe"
        if not layout.has("Chardev", field):
            return ()
        front = self._word(address + layout.offset("Chardev", field))
        return (self._user(front, "chr"),) if front else ()

    # Shapes ------------------------------------------------------------------------

    def _of(self, name: str, word: int) -> Named | None:
        """Return what has a name by a pointer at ``word``."""
        block = self._block(word)
        if block is None:
            return None
        if self._is("BlockBackend", "name", block, word):
            user = self._backend_user(block.start)
            node = self._word(self._at("BlockBackend", "root", block.start))
            # What has neither a node nor a user is known by its name alone.
            if user is not None or node:
                users = (user,) if user is not None else ()
                return Named("block-backend", name, block.start, users)
        if self._is_net(block.start) and word == self._at("NetClientState", "name", block.start):
            return self._netdev(name, block)
        if word == block.start and self._is_job(block):
            return Named("job", name, block.start, ())
        return None

    def _netdev(self, name: str, block: Block) -> Named:
        start = block.start
        peer = self._word(self._at("NetClientState", "peer", start))
        users: dict[int, User] = {}
        inside = [(start, start + block.size)]
        for word, _ in self._into(inside):
            user = self._user(word)
            if user.object:
                users.setdefault(user.object, user)
        if peer and not users:
            user = self._user(peer)
            users[peer] = user._replace(name=self._net_name(peer))
        return Named("netdev", name, start, tuple(users.values()), self._is_deleted(peer))

    def _is_deleted(self, peer: int) -> bool:
        """Whether netdev_del came while a NIC has it (net/net.c qemu_del_net_client)."""
        block, layout = self._block(peer), self._context.layout
        # The clients of a NIC follow its NICState in one block.
        if block is None or block.start == peer or not layout.has("NICState", "peer_deleted"):
            return False
        if self._word(self._at("NICState", "ncs", block.start)) != peer:
            return False
        at = self._at("NICState", "peer_deleted", block.start)
        return bool(self._context.image.read(at, 1)[0] & 1)

    def _nodes(self, node: int) -> tuple[User, ...]:
        """Return the parents of a block node (``BlockDriverState.parents``)."""
        context, layout = self._context, self._context.layout
        needed = [("BdrvChild", f) for f in ("bs", "opaque", "next_parent")]
        if not all(layout.has(*pair) for pair in [("BlockDriverState", "parents"), *needed]):
            return ()
        out: list[User] = []
        first = self._word(self._at("BlockDriverState", "parents", node))
        link = layout.offset("BdrvChild", "next_parent")
        for child in context.queue(first, link, "BlockDriverState.parents"):
            if self._word(self._at("BdrvChild", "bs", child)) != node or len(out) >= _USERS_MAX:
                break
            parent = self._word(self._at("BdrvChild", "opaque", child))
            out.append(self._parent(parent, child))
        return tuple(out)

    def _parent(self, parent: int, child: int) -> User:
        block = self._block(parent)
        if block is None:
            return self._user(parent)
        if self._fits("BlockBackend", block) and child == self._word(
            self._at("BlockBackend", "root", parent)
        ):
            return self._backend_user(parent) or User("block-backend", parent, 0, "")
        if self._fits("BlockDriverState", block):
            at = self._at("BlockDriverState", "node_name", parent)
            return User("block-node", parent, 0, self._string(at))
        if self._is_job(block):
            return User("job", parent, 0, self._string(self._word(parent)))
        return self._user(parent)

    def _backend_user(self, backend: int) -> User | None:
        """Return who uses a block backend: its device, its name's owner, or who points to it."""
        device = self._word(self._at("BlockBackend", "dev", backend))
        if device in self._objects:
            return User("object", backend, device, "", "BlockBackend.dev")
        name = self._string(self._word(self._at("BlockBackend", "name", backend)))
        if name:
            return User("block-backend", backend, 0, name)
        found = None
        for word, _ in self._into([(backend, backend + 8)]):
            user = self._user(word)
            if user.object:
                return user
            block = self._block(word)
            # BlockExport begins with its driver and its id (include/block/export.h).
            if block is not None and self._constant(self._word(block.start)):
                export = self._string(self._word(block.start + 8))
                if export:
                    found = User("block-export", block.start, 0, export)
        return found

    def _is_job(self, block: Block) -> bool:
        """Job (include/qemu/job.h) begins with its id and its driver."""
        if not self._context.layout.has("Job", "id") or block.size < self._size("Job"):
            return False
        text = self._word(block.start)
        return self._starts_at(text) and self._constant(self._word(block.start + 8))

    def _is_net(self, start: int) -> bool:
        """NetClientState (include/net/net.h): what it can do, and a peer that knows it."""
        layout = self._context.layout
        if not layout.has("NetClientState", "info") or not layout.has("NetClientState", "name"):
            return False
        if not self._constant(self._word(self._at("NetClientState", "info", start))):
            return False
        model = self._word(self._at("NetClientState", "model", start))
        return self._starts_at(model)

    def _net_name(self, client: int) -> str:
        return self._string(self._word(self._at("NetClientState", "name", client)))

    def _user(self, word: int, field: str = "") -> User:
        """Return what a word is part of."""
        context = self._context
        home = self._home(word)
        if home:
            return User("object", word, home, "", self._field(home, word) or field)
        block = self._block(word)
        if block is None:
            low, high = context.statics.data
            kind = "variable" if low <= word < high else "block"
            return User(kind, word, 0, "")
        if self._is_net(block.start) and self._net_name(block.start):
            return User("netdev", block.start, 0, self._net_name(block.start))
        for front in ("CharBackend", "CharFrontend"):
            # A monitor begins with its chardev, and is called with itself (monitor/qmp.c).
            if word == block.start and context.layout.has(front, "opaque"):
                opaque = self._word(self._at(front, "opaque", word))
                if field == "chr" and opaque == block.start:
                    return User("monitor", block.start, 0, "")
        return User("block", block.start, 0, "")

    # Small things ------------------------------------------------------------------

    def _field(self, home: int, word: int) -> str:
        return field_of(self._context, self._objects[home].type, word - home)

    def _text(self, name: str) -> Iterator[int]:
        """Yield the addresses in heaps at which a text stands and ends."""
        wanted = name.encode("utf-8", "surrogateescape") + b"\0"
        spans = self._heap.spans()
        for start, segment in self._context.image.segments():
            if not any(low < start + len(segment) and start < high for low, high in spans):
                continue
            data = bytes(segment)
            at = data.find(wanted)
            while at >= 0:
                if not (start + at) % 8:
                    yield start + at
                at = data.find(wanted, at + 1)

    def _into(self, ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield (address, word) of live memory's words into ranges, but for those inside them."""
        if not ranges:
            return
        for word, target in find_into(self._context.image, sorted(ranges)):
            inside = any(low <= word < high for low, high in ranges)
            if not inside and self._context.live.alive(word):
                yield word, target

    def _block(self, address: int) -> Block | None:
        block = self._heap.at(address) if address else None
        return block if block is not None and block.state == LIVE else None

    def _starts_at(self, address: int) -> bool:
        block = self._block(address)
        return block is not None and block.start == address

    def _is(self, struct: str, field: str, block: Block, at: int) -> bool:
        """Whether a block has the size of a structure, and an address is that of its field."""
        has = self._context.layout.has(struct, field)
        return has and at == self._at(struct, field, block.start) and self._fits(struct, block)

    def _fits(self, struct: str, block: Block) -> bool:
        known = struct in self._context.layout.structs
        return known and self._size(struct) <= block.size <= self._size(struct) + _ROUNDED

    def _size(self, struct: str) -> int:
        return self._context.layout.size(struct)

    def _at(self, struct: str, field: str, start: int) -> int:
        return start + self._context.layout.offset(struct, field)

    def _word(self, address: int) -> int:
        try:
            return self._context.image.u64(address) if address else 0
        except Unreadable:
            return 0

    def _string(self, address: int) -> str:
        try:
            return self._context.image.string(address) if address else ""
        except Unreadable:
            return ""

    def _constant(self, address: int) -> bool:
        return any(low <= address < high for low, high in self._program)
