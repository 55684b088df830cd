"""Callbacks
---------

The structures by which QEMU remembers a function and what to call it with.  Each is told by
its shape around the word that is the argument: the function beside it, and links that close.
A block that was not cleared may have all words of an earlier structure: what counts is where a
block begins, of which malloc has overwritten the first words, and a list that a head leads to.
Offsets are those of QEMU 7.2 and later on 64-bit hosts, where a field that came or went moves
what is tried, not what is believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Callable

from . import queued
from .words import Callback, Words

__all__ = ["SHAPES"]

# QEMUTimerList.active_timers comes behind a clock and a mutex, with or without debugging.
_ACTIVE_TIMERS = range(48, 104, 8)
# QEMUBH.flags (util/async.c): BH_PENDING in a list, BH_SCHEDULED to be called, BH_DELETED not.
# Where an AioContext (include/block/aio.h) may have the list of its bottom halves, and how many.
_BH_LISTS, _BHS_MAX = range(96, 1024, 8), 1000
_BH_CALLED, _BH_FLAGS = 1 | 2, 1 | 2 | 4
# AioHandler (util/aio-posix.h): a GPollFD, then its functions, four or six of them.
_FD_FUNCTIONS = (6, 4)
# node and node_ready lie between opaque and the back link of node_deleted.
_FD_DELETED = 48
# SaveStateEntry (migration/savevm.c): a link, idstr, six numbers, ops and vmsd before opaque.
_IDSTR, _IDSTR_SIZE, _SAVE_OPAQUE = 16, 256, 312
_NO_DEADLINE = (1 << 64) - 1
# Sizes of the smallest of a sort, bytes.
_RESET, _BOTTOM_HALF = 32, 40


def _reset(words: Words, word: int) -> Callback | None:
    """QEMUResetEntry (hw/core/reset.c, until 9.0): link, func, opaque."""
    start, function = word - 24, words(word - 8)
    if words.code.has(function) and words.has_room(start, _RESET) and words.ends(start, start):
        return Callback("reset-handler", start, function)
    return None


def _vm_change(words: Words, word: int) -> Callback | None:
    """VMChangeStateEntry (system/runstate.c): one function to three, opaque, link."""
    for start in (word - 8, word - 16, word - 24):
        function = words(start)
        if words.code.has(function) and words.size(start) and words.ends(start, word + 8):
            return Callback("vm-change-handler", start, function)
    return None


def _timer(words: Words, word: int) -> Callback | None:
    """QEMUTimer (include/qemu/timer.h): deadline, list, cb, opaque, next; in its list."""
    start, function, timers = word - 24, words(word - 8), words(word - 16)
    if not words.code.has(function) or not timers or words(start) == _NO_DEADLINE:
        return None
    # A QEMUTimerList is a block of its own, and begins with its clock, a variable.
    if not words.size(timers) or not words.in_data(words(timers)):
        return None
    for offset in _ACTIVE_TIMERS:
        at = words(timers + offset)
        for _ in range(1000):
            if at == start:
                return Callback("timer", start, function)
            # Another timer of the list, or the offset is a wrong one.
            if not at or words(at + 8) != timers:
                break
            at = words(at + 32)
    return None


def _bottom_half(words: Words, word: int) -> Callback | None:
    """QEMUBH (util/async.c): ctx, name, cb, opaque, next, flags; about to run."""
    start, function, context = word - 24, words(word - 8), words(word - 24)
    if not words.code.has(function) or not _is_context(words, context):
        return None
    if not words.has_room(start, _BOTTOM_HALF):
        return None
    name = words(word - 16)
    if words(word + 16) & _BH_FLAGS != _BH_CALLED or not words.constant(name):
        return None
    # What is about to run hangs in its context's list; a block that was freed and used again
    # may have the bytes of one that ran.
    for offset in _BH_LISTS:
        at = words(context + offset)
        for _ in range(_BHS_MAX):
            if at == start:
                return Callback("bottom-half", start, function)
            if not at or words(at) != context:
                break
            at = words(at + 32)
    return None


def _is_context(words: Words, start: int) -> bool:
    """AioContext (include/block/aio.h): a GSource, whose functions are in a constant."""
    functions = words(start + 16)
    return bool(words.size(start)) and words.constant(functions) and not words.code.has(functions)


def _fd(words: Words, word: int) -> Callback | None:
    """AioHandler: pfd, functions, opaque, and its link in the list of an AioContext."""
    if words(word + _FD_DELETED):
        return None
    for count in _FD_FUNCTIONS:
        start = word - 8 - 8 * count
        functions = [words(start + 8 + 8 * i) for i in range(count)]
        named = [function for function in functions if function]
        if not named or not all(map(words.code.has, named)) or not words.size(start):
            continue
        if words.ends(start, word + 8, lambda head: _is_context(words, words.start(head))):
            return Callback("fd-handler", start, named[0])
    return None


def _saved(words: Words, word: int) -> Callback | None:
    """SaveStateEntry: link, idstr, numbers, ops, vmsd, opaque."""
    start = word - _SAVE_OPAQUE
    if not words.constant(words(word - 8)) or not words.has_room(start, _SAVE_OPAQUE + 8):
        return None
    return Callback("savevm-entry", start, 0) if words.ends(start, start) else None


def _notifier(words: Words, word: int) -> Callback | None:
    """The link of a live Notifier (include/qemu/notify.h) leads to the next: notify, link."""
    start, function, before = word - 8, words(word - 8), words(word + 8)
    if not words.code.has(function) or not words.closes(before, start):
        return None
    if words.sure(start) or words.ends(start, word, partial(_in_backend, words)):
        return Callback("notifier", start, function)
    return None


def _in_backend(words: Words, head: int) -> bool:
    return queued.is_backend(words, words.start(head))


def _first_notifier(words: Words, word: int) -> Callback | None:
    """The head of a list of Notifiers leads to one whose link leads back."""
    element = words(word)
    function = words(element)
    if not words.code.has(function) or words(element + 16) != word:
        return None
    if words.sure(word) or _in_backend(words, word):
        return Callback("notifier", word, function)
    return None


Shape = Callable[[Words, int], "Callback | None"]

#: What each kind is called, and when it calls.
SHAPES: dict[str, tuple[Shape, ...]] = {
    "reset-handler": (_reset,),
    "vm-change-handler": (_vm_change,),
    "timer": (_timer,),
    "bottom-half": (_bottom_half,),
    "fd-handler": (_fd,),
    "savevm-entry": (_saved,),
    "notifier": (_notifier, _first_notifier),
    **queued.SHAPES,
}
# What leads to an element or to what QEMU keeps, and calls nobody.
_FREED = ("list", "eventfd", "migration-blocker")


def recognised(words: Words, word: int, freed: bool = True) -> Iterator[Callback]:
    """Yield the structures of which a word is the argument, or the link.

    :param freed: whether it leads to freed memory: what is alive is on lists rightly.
    """
    words.around(word)
    for kind, shapes in SHAPES.items():
        if not freed and kind in _FREED:
            continue
        for shape in shapes:
            found = shape(words, word)
            if found is not None:
                yield found
                return
