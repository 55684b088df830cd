"""What every part of the walk shares
----------------------------------
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Callable, TypeVar, cast

from ..heap import Live, Walked
from ..layout import Layout
from ..snapshot import Note, Obj, TypeInfo, Unknown, lineage
from ..target.image import PAGE, Image, Unreadable, without
from ..tuples import NamedTuple
from .enclosing import Enclosing
from .glib import HashTable, HashVariant, entries, open_table
from .route import Op
from .scan import Beside, Found, aligned, find_into

__all__ = ["Context", "Handles", "Known", "Record", "Statics"]

T = TypeVar("T")

# A machine with more elements than this in one list is a loop or damaged memory.
LIST_MAX = 200_000
# Memory is told from other memory by blocks of so many bytes.
_BLOCK = 1 << 20


class Record:
    """The bytes of one structure, read at once, with its fields by name."""

    __slots__ = ("_fields", "_raw", "address")

    def __init__(self, context: Context, struct: str, address: int) -> None:
        layout = context.layout.structs[struct]
        self.address = address
        self._fields = layout.fields
        self._raw = context.image.read(address, layout.size)

    def __getitem__(self, field: str) -> int:
        """Return an unsigned field; KeyError when this QEMU has none of that name."""
        offset, size = self._fields[field]
        return int.from_bytes(self._raw[offset : offset + size], "little")

    def get(self, field: str, default: int = 0) -> int:
        """Return an unsigned field, or ``default`` when this QEMU lacks it."""
        return self[field] if field in self._fields else default

    def ptr(self, field: str) -> int:
        """Return the pointer at the start of a field: a list head's first element, say."""
        offset = self._fields[field][0]
        return int.from_bytes(self._raw[offset : offset + 8], "little")

    def signed(self, field: str) -> int:
        """Return a signed field."""
        offset, size = self._fields[field]
        return int.from_bytes(self._raw[offset : offset + size], "little", signed=True)

    def at(self, field: str) -> int:
        """Return the address of a field."""
        return self.address + self._fields[field][0]

    def __contains__(self, field: str) -> bool:
        return field in self._fields


class Statics(NamedTuple):
    """Where the program's own data lies.

    :param symbols: addresses by name; a static name may have several.
    :param bss: (start, end) of the zero-initialised data.
    :param data: (start, end) of all writable data of the program.
    :param program: (start, end) of everything that was loaded of it.
    """

    symbols: dict[str, list[int]]
    bss: tuple[int, int]
    data: tuple[int, int]
    program: tuple[int, int]

    def first(self, name: str) -> int:
        """Return the address of a symbol, 0 when the program does not name it."""
        return self.symbols.get(name, [0])[0]


class Handles(NamedTuple):
    """Functions that tell one kind of property from another, and the hash functions."""

    child: int
    link: int
    string_hash: int
    property_free: int


class Recall(NamedTuple):
    """What a part of a walk came to, what it was given to do, and the pages that it read."""

    result: object
    given: object
    pages: set[int]


#: The types, the ancestors of each, and what else follows from them and the layout.
OfTypes = tuple[Mapping[str, TypeInfo], dict[str, tuple[str, ...]], dict[Hashable, object]]

#: The number of an image, (start, end) of memory, and (address, word) of words into these.
FromData = tuple[int, list[tuple[int, int]], list[tuple[int, int]]]


class Known:
    """What one reading of a process learns for the next one, under the same layout.

    :ivar image: of the last walk that was believed, and ``recalls`` what its parts came to.
    :ivar types: the bytes of each ``TypeImpl``, and its name and its parent's, by address.
        QEMU registers types and never forgets one.
    :ivar variables: the static variables that were recognised, by what they are for.
    :ivar routes: the ways that were followed, with their offsets.
    :ivar in_data: where in the program's data a word was found last.
    :ivar of_types: what follows from the types alone.
    :ivar heap: what its walk found.
    :ivar words: where the words are that were searched for, and ``beside`` those that lie
        beside the address of code.
    :ivar waited: where iothreads were seen to wait for work.
    :ivar from_data: the number of an image, its memory but the program's, and the variables that
        lead there.
    """

    def __init__(self) -> None:
        self.image: Image | None = None
        self.recalls: dict[Hashable, Recall] = {}
        self.types: dict[int, tuple[bytes, str, str]] = {}
        self.variables: dict[str, int] = {}
        self.routes: dict[str, tuple[Op, ...]] = {}
        self.in_data: dict[int, int] = {}
        self.waited: set[int] = set()
        self.words, self.beside = Found(), Beside()
        self.from_data: FromData = 0, [], []
        self.of_types: OfTypes | None = None
        self.heap = Walked()


class Context:
    """An image, a layout, and the notes taken on the way.

    :param known: from an earlier reading of the same process.
    """

    def __init__(
        self,
        image: Image,
        layout: Layout,
        statics: Statics,
        variant: HashVariant,
        known: Known | None = None,
    ) -> None:
        self.image = image
        self.layout = layout
        self.statics = statics
        self.variant = variant
        self.known = known or Known()
        self.live = Live(image, image.mappings, image.stacks, self.known.heap)
        # Only what is known of the very image that this one was compared with holds.
        since = self.known.image is not None and self.known.image is image.since
        self._recalls = self.known.recalls if since else {}
        self.recalls: dict[Hashable, Recall] = {}
        self.notes: list[Note] = []
        self.unknown: list[Unknown] = []
        self.types: Mapping[str, TypeInfo] = {}
        self._chains: dict[str, tuple[str, ...]] = {}
        self._facts: dict[Hashable, object] = {}
        self._data: list[tuple[int, bytes]] | None = None
        self._enclosing: Enclosing | None = None
        self._led: set[int] | None = None  # words of the variables that lead elsewhere
        self.handles = Handles(0, 0, 0, 0)

    def under(self, layout: Layout) -> Context:
        """Return a context for the same image and the same types under another layout."""
        known = Known()
        known.types, known.words = self.known.types, self.known.words
        known.from_data = self.known.from_data
        out = Context(self.image, layout, self.statics, self.variant, known)
        out.types, out.handles, out._data = self.types, self.handles, self._data
        out.live, out._enclosing = self.live, self._enclosing
        return out

    def in_data(self, value: int) -> bool:
        """Whether an aligned word of the program's own data has a value, by the scanned copy."""
        word = value.to_bytes(8, "little")
        last = self.known.in_data.get(value)
        if last is not None and self.image.held(last, 8) == word:
            return True
        if self._led is None:
            self._led = {at for _, at in self.from_data()}
        places = self.known.from_data[1]
        i = bisect_right(places, (value, 1 << 64)) - 1
        if i >= 0 and value < places[i][1]:
            return value in self._led
        if self._data is None:
            low, high = self.statics.data
            self._data = [
                (max(low, start), bytes(segment[max(0, low - start) : max(0, high - start)]))
                for start, segment in self.image.segments()
                if start < high and low < start + len(segment)
            ]
        for start, data in self._data:
            for at in aligned(data, value):
                self.known.in_data[value] = start + at
                return True
        return False

    def from_data(self) -> Sequence[tuple[int, int]]:
        """Return (address, word) of the program's variables that lead to other memory.

        To what was captured, and what is near that.
        """
        image, (low, high) = self.image, self.statics.data
        number, before, rows = self.known.from_data
        if number == image.number:
            return rows
        # A little more than what was captured: few pointers of the program's lead there, while
        # many lead between the largest mappings.
        begin, end = self.statics.program
        program = [(begin, -(-end // PAGE) * PAGE - begin)]
        captured = without([(start, len(data)) for start, data in image.segments()], program)
        blocks = {
            n for at, size in captured for n in range(at // _BLOCK, -(-(at + size) // _BLOCK))
        }
        others = without([(n * _BLOCK, _BLOCK) for n in sorted(blocks)], program)
        places = [(start, start + size) for start, size in others]
        pages = range(low // PAGE, high // PAGE + 1)
        same = number == image.since_number and not any(page in pages for page in image.changed)
        if not same or places != before:
            rows = list(find_into(image, places, (low, high))) if places else []
        self.known.from_data = image.number, places, rows
        return rows

    def recall(self, key: Hashable, given: object, read: Callable[[], T]) -> T:
        """Return what ``read`` returns; it is not called where no page that it reads changed.

        :param key: tells one part of the walk from all others.
        :param given: what else the result depends on, but for the layout and ``handles``.
        """
        image = self.image
        last = self._recalls.get(key)
        if last is not None:
            # Most calls end here: the names of a tuple take half of their time.
            known, before, pages = last
            if before == given and pages.isdisjoint(image.changed):
                image.given.update(pages)
                self.recalls[key] = last
                return cast("T", known)
        outer, notes, missing = (image.given, image.empty), len(self.notes), len(image.missing)
        image.given, image.empty = set(), set()
        try:
            result = read()
        finally:
            pages, empty = image.given, image.empty
            image.given, image.empty = outer
            image.given |= pages
            image.empty |= empty
        # What made no sense is looked at again; and so is what was never touched.
        if len(self.notes) == notes and len(image.missing) == missing and not empty:
            self.recalls[key] = Recall(result, given, pages)
        return result

    def adopt(self, types: Mapping[str, TypeInfo]) -> None:
        """Take note of the QOM types; what followed from the same ones before still does."""
        if self.known.of_types is None or self.known.of_types[0] != types:
            self.known.of_types = types, {}, {}
        self.types, self._chains, self._facts = self.known.of_types

    def fact(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what ``make`` returns; that depends on the layout and the types alone."""
        if key not in self._facts:
            self._facts[key] = make()
        return cast("T", self._facts[key])

    def enclosing(self, objects: Mapping[int, Obj]) -> Enclosing:
        """Return what finds the object that has an address; it is made once for the same ones."""
        if self._enclosing is None or not self._enclosing.fits(objects):
            self._enclosing = Enclosing(self.types, objects)
        return self._enclosing

    def types_of(self, *ancestors: str) -> frozenset[str]:
        """Return the types that are, or derive from, one of some."""
        wanted = frozenset(ancestors)
        return self.fact(
            ("types", wanted),
            lambda: frozenset(t for t in self.types if not wanted.isdisjoint(self.chain(t))),
        )

    def believed(self) -> None:
        """Have the next walk build upon this one."""
        self.known.image, self.known.recalls = self.image, self.recalls
        self.image.since = self.image.scope = None
        self._recalls = {}

    def record(self, struct: str, address: int) -> Record:
        """Read one structure.

        :raises Unreadable: when it is not there.
        """
        return Record(self, struct, address)

    def note(self, address: int, text: str) -> None:
        """Remember something that made no sense."""
        self.notes.append(Note(address, text))

    def attempt(self, what: str, address: int, read: Callable[[], None]) -> None:
        """Run ``read``; what it cannot read becomes a note and ends nothing else."""
        try:
            read()
        except Unreadable as error:
            self.note(address, f"{what} cannot be read at {error.args[0]:#x}")

    def string(self, address: int) -> str:
        """Return the C string at ``address``, empty for NULL or an unreadable one."""
        if not address:
            return ""
        try:
            return self.image.string(address)
        except Unreadable:
            self.note(address, "a name cannot be read")
            return ""

    def table(self, address: int) -> HashTable | None:
        """Open the ``GHashTable`` at ``address``."""
        return open_table(self.image, self.variant, address)

    def entries(self, table: HashTable) -> list[tuple[int, int]]:
        """Return the pairs of a table; what cannot be read becomes a note."""
        try:
            rows = entries(self.image, table)
        except Unreadable:
            self.note(table.address, "a hash table is damaged")
            return []
        if len(rows) != table.nnodes:
            self.note(table.address, "a hash table is damaged: it does not hold what it counts")
        return rows

    def queue(self, first: int, next_offset: int, what: str) -> Iterator[int]:
        """Follow a QLIST or QTAILQ forward from its first element.

        :param next_offset: of the next pointer in an element, bytes.
        """
        seen: set[int] = set()
        at = first
        while at:
            if at in seen or len(seen) >= LIST_MAX:
                self.note(at, f"{what}: the list does not end")
                return
            seen.add(at)
            yield at
            try:
                at = self.image.u64(at + next_offset)
            except Unreadable:
                self.note(at, f"{what}: the list leads out of memory")
                return

    def chain(self, name: str) -> tuple[str, ...]:
        """Return a QOM type and its ancestors, the type first."""
        if name not in self._chains:
            self._chains[name] = lineage(self.types, name)
        return self._chains[name]

    def is_a(self, name: str, ancestor: str) -> bool:
        """Whether a QOM type is, or derives from, ``ancestor``."""
        return ancestor in self.chain(name)
