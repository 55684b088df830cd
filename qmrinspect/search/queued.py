"""What waits in lists and queues
------------------------------

Requests, packets and elements of lists by which QEMU comes back to a device later.  Each is told
by its shape around the word that leads to the device, as :mod:`.callbacks` are.
"""

from __future__ import annotations

from .words import Callback, Words

__all__ = ["SHAPES"]

# What malloc adds to a size at most, and how much of a freed block is its list's afterwards.
_ROUNDED, _OVERWRITTEN = 32, 32
# So far into a freed element its link is looked for, bytes.
_LINK_MAX = 1 << 16
_SMALL = 1 << 32
# An RngRequest, bytes.
_ENTROPY = 48
# A GSList's block, and where an Error (util/error.c) has its function and line.
_GSLIST, _ERROR_FUNC, _ERROR_LINE, _LINE_MAX = 24, 16, 24, 1 << 20
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
    if any(0 < one <= size <= one + _ROUNDED for one in sizes):
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
    start, function, before = word - 24, words(word - 8), words(word + 32)
    if words.code.has(function) and words.closes(before, start) and words.size(start):
        return Callback("request", start, function)
    return None


def _packet(words: Words, word: int) -> Callback | None:
    """NetPacket (net/queue.c): link, sender, flags, size, sent_cb, data."""
    start, before, sent = word - 16, words(word - 8), words(word + 16)
    length = words(word + 8) >> 32
    if not words.closes(before, start) or not (not sent or words.code.has(sent)):
        return None
    return Callback("packet", start, sent) if 0 < length <= words.size(start) else None


def _frontend(words: Words, word: int) -> Callback | None:
    """CharFrontend: a chardev that has it, four functions, opaque."""
    start = word - 8 * (_FRONT_FUNCTIONS + 1)
    functions = [words(start + 8 * i) for i in range(1, _FRONT_FUNCTIONS + 1)]
    named = [function for function in functions if function]
    if not named or not all(map(words.code.has, named)):
        return None
    return (
        Callback("chardev-handler", start, named[-1])
        if words.is_a("chardev", words(start))
        else None
    )


def _drive(words: Words, word: int) -> Callback | None:
    """BlockBackend (block/block-backend.c): dev, dev_ops, dev_opaque."""
    operations, start = words(word - 8), words.start(word)
    named = [words(operations + 8 * i) for i in range(4)] if words.constant(operations) else []
    functions = [function for function in named if words.code.has(function)]
    if functions and start and words.fits("BlockBackend", start, _ROUNDED):
        return Callback("drive-handler", start, functions[0])
    return None


def _input(words: Words, word: int) -> Callback | None:
    """QemuInputHandlerState (ui/input.c): dev, handler, id, events, con, and a link."""
    handler, before = words(word + 8), words(word + 40)
    function = words(handler + 16) if words.constant(handler) else 0
    if words.code.has(function) and words.closes(before, word) and words.ends(word + 32):
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
    start, before = word - 8, words(word + 16)
    if words(start) < _SMALL and words.closes(before, start) and words.size(start):
        return Callback("eventfd", start, 0) if words.ends(start + 16) else None
    return None


def _blocker(words: Words, word: int) -> Callback | None:
    """A GSList that a variable leads to has a freed Error: migration_blockers (migration.c)."""
    error = words(word)
    if words.size(word) != _GSLIST or not words.constant(words(error + _ERROR_FUNC)):
        return None
    line = words(error + _ERROR_LINE) & (_SMALL - 1)
    if not 0 < line < _LINE_MAX:
        return None
    return Callback("migration-blocker", word, 0) if word in words.listed() else None


def _element(words: Words, word: int) -> Callback | None:
    """The head of a list, or a link in it, leads to a freed element whose link leads back."""
    element, start = words(word), words.start(word)
    if start == word and not words.is_object(word):
        return None  # the first of two structures that know each other looks the same
    end = words.end(element)
    for i, back in enumerate(words.many(element + 8, min(element + _LINK_MAX + 8, end))):
        if back != word:
            continue
        at = element + 8 * i
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
