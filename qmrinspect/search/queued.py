"""What waits in lists and queues
------------------------------

Requests, packets and elements of lists by which QEMU comes back to a device later.  Each is told
by its shape around the word that leads to the device, as :mod:`.callbacks` are.
"""

from __future__ import annotations

from .words import Callback, Words

__all__ = ["SHAPES", "is_backend"]

# What malloc adds to a size at most, and how much of a freed block is its list's afterwards.
_ROUNDED, _OVERWRITTEN = 32, 32
# So far into a freed element its link is looked for, bytes.
_LINK_MAX = 1 << 16
_SMALL = 1 << 32
# An RngRequest, and the least BlockAIOCB, bytes.
_ENTROPY, _AIO = 48, 40
# A GSList's block, and where an Error (util/error.c) has its two constants and its line.
_GSLIST, _ERROR_TEXTS, _ERROR_LINE, _LINE_MAX = 24, (16, 24), 32, 1 << 20
# BlockBackend.refcnt (block/block-backend.c), where malloc writes into what is freed.
_BACKEND_REFS, _REFS_MAX = 8, 1000
# NetQueue.packets (net/queue.c), behind its function.
_PACKETS = 24
# CharFrontend (include/chardev/char-fe.h): a chardev, four functions, opaque.
_FRONT_FUNCTIONS = 4
# A MemoryRegionIoeventfd has its notifier behind two 128-bit numbers and what it matches.
_IOEVENTFD = 48


def _aio(words: Words, word: int) -> Callback | None:
    """BlockAIOCB (include/block/aio.h): description, node, cb, opaque; as large as described."""
    start, function, described = word - 24, words(word - 8), words(word - 24)
    if not words.code.has(function) or not words.constant(described):
        return None
    size = words.size(start)
    # AIOCBInfo: one function, two before 8.2, and the size.
    sizes = [words(described + at) for at in (8, 16)]
    node = words(start + 8)  # none of a drive without a medium
    if any(_AIO <= one <= size <= one + _ROUNDED for one in sizes) and (
        not node or words.size(node)
    ):
        return Callback("request", start, function)
    return None


def _entropy(words: Words, word: int) -> Callback | None:
    """RngRequest (include/system/rng.h): function, data, opaque, offset, size, next."""
    start, function, data = word - 16, words(word - 16), words(word - 8)
    done, size = words(word + 8), words(word + 16)
    if not words.code.has(function) or not _ENTROPY <= words.size(start) <= _ENTROPY + _ROUNDED:
        return None
    # The data of a request are in a block of their own, which is as large as asked for.
    asked = done <= size < _SMALL and 0 < size <= words.size(data) <= size + _ROUNDED
    return Callback("request", start, function) if asked else None


def _crypto(words: Words, word: int) -> Callback | None:
    """CryptoDevBackendOpInfo (include/system/cryptodev.h): numbers, cb, opaque, and a link."""
    start, function = word - 24, words(word - 8)
    if words.code.has(function) and words.size(start) and words.ends(start, word + 24):
        return Callback("request", start, function)
    return None


def _packet(words: Words, word: int) -> Callback | None:
    """NetPacket (net/queue.c): link, sender, flags, size, sent_cb, data."""
    start, sent = word - 16, words(word + 16)
    length = words(word + 8) >> 32
    if not 0 < length <= words.size(start) or not (not sent or words.code.has(sent)):
        return None
    queued = words.ends(start, start, lambda head: _is_queue(words, head - _PACKETS))
    return Callback("packet", start, sent) if queued else None


def _is_queue(words: Words, start: int) -> bool:
    """NetQueue (net/queue.c): opaque, numbers, deliver, packets."""
    return bool(words.size(start)) and words.code.has(words(start + _PACKETS - 8))


def _frontend(words: Words, word: int) -> Callback | None:
    """CharFrontend: a chardev that leads back to it, four functions, opaque."""
    start = word - 8 * (_FRONT_FUNCTIONS + 1)
    functions = [words(start + 8 * i) for i in range(1, _FRONT_FUNCTIONS + 1)]
    named = [function for function in functions if function]
    if not named or not all(map(words.code.has, named)):
        return None
    chardev = words(start)
    if words.is_a("chardev", chardev) and words.leads(chardev, start):
        return Callback("chardev-handler", start, named[-1])
    return None


def is_backend(words: Words, start: int) -> bool:
    """Whether a BlockBackend begins at an address, which somebody holds."""
    held = 0 < words(start + _BACKEND_REFS) & (_SMALL - 1) < _REFS_MAX
    return held and words.fits("BlockBackend", start, _ROUNDED)


def _drive(words: Words, word: int) -> Callback | None:
    """BlockBackend (block/block-backend.c): dev, dev_ops, dev_opaque."""
    operations, start = words(word - 8), words.start(word)
    named = [words(operations + 8 * i) for i in range(4)] if words.constant(operations) else []
    functions = [function for function in named if words.code.has(function)]
    if functions and start and is_backend(words, start):
        return Callback("drive-handler", start, functions[0])
    return None


def _input(words: Words, word: int) -> Callback | None:
    """QemuInputHandlerState (ui/input.c): dev, handler, id, events, con, and a link."""
    handler = words(word + 8)
    function = words(handler + 16) if words.constant(handler) else 0
    # The mask of its lights came in 11.1.
    links = [word + at for at in (32, 40)]
    if words.code.has(function) and any(words.ends(word, link) for link in links):
        return Callback("input-handler", word, function)
    return None


def _eventfd(words: Words, word: int) -> Callback | None:
    """MemoryRegionIoeventfd (system/memory.c), of an array that a region has."""
    first = words.start(word)
    address, size = word - _IOEVENTFD, words(word - _IOEVENTFD + 16)
    if (
        not first
        or (address - first) % (_IOEVENTFD + 16)
        or size > 8
        or not (size or words(address))
    ):
        return None
    if words(address + 8) or words(address + 24) or words(address + 32) & 0xFF > 1:
        return None
    return Callback("eventfd", address, 0) if words.is_of("memory-region", first) else None


def _resample(words: Words, word: int) -> Callback | None:
    """KVMResampleFd (accel/kvm/kvm-all.c): gsi, notifier, and a link."""
    start = word - 8
    if words(start) < _SMALL and words.size(start) and words.ends(start, start + 16):
        return Callback("eventfd", start, 0)
    return None


def _blocker(words: Words, word: int) -> Callback | None:
    """A GSList that a variable leads to has a freed Error: migration_blockers (migration.c)."""
    error = words(word)
    constants = all(words.constant(words(error + at)) for at in _ERROR_TEXTS)
    if words.size(word) != _GSLIST or not constants:
        return None
    # Since 10.2 the length of a text comes before it.
    lines = words(error + _ERROR_LINE)
    if not any(0 < line < _LINE_MAX for line in (lines & (_SMALL - 1), lines >> 32)):
        return None
    return Callback("migration-blocker", word, 0) if word in words.listed() else None


def _element(words: Words, word: int) -> Callback | None:
    """The head of a list, or a link in it, leads to a freed element whose link leads back."""
    element, start = words(word), words.start(word)
    if start == word and not words.is_object(word):
        return None  # the first of two structures that know each other looks the same
    end = min(words.end(element), element + _LINK_MAX + 8)
    for back in words.where(element + 8, end, word):
        at = back - 8
        after = words(at)
        # What malloc writes into what was freed hides the next element.
        hidden = at < words.start(element) + _OVERWRITTEN
        if hidden or not after or words(after + (at - element) + 8) == at:
            return Callback("list", word, 0)
    return None


#: As :data:`.callbacks.SHAPES`; those under ``list`` lead to what was freed alone.
SHAPES = {
    "request": (_aio, _entropy, _crypto),
    "packet": (_packet,),
    "chardev-handler": (_frontend,),
    "drive-handler": (_drive,),
    "input-handler": (_input,),
    "eventfd": (_eventfd, _resample),
    "migration-blocker": (_blocker,),
    "list": (_element,),
}
