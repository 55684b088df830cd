"""Virtio devices
--------------
"""

from __future__ import annotations

from ..snapshot import Snapshot
from ..target.image import Unreadable
from .tally import Tally

__all__ = ["relate"]

_QUEUES = 8  # that are looked at; each device has VIRTIO_QUEUE_MAX of them
_QUEUES_MAX = 1024  # VIRTIO_QUEUE_MAX
_ELEMENTS_MAX = 1024  # VIRTQUEUE_MAX_SIZE


def relate(tally: Tally, snapshot: Snapshot) -> None:
    """Count what holds between virtio devices, their queues and the spaces they use."""
    space = tally.asks("a virtio device uses an address space", "VirtIODevice.dma_as")
    queues = tally.asks("a virtio device's queues point back to it", "VirtIODevice.vq")
    inuse = tally.asks("no queue has more elements in use than there are", "VirtQueue.inuse", False)
    num = tally.asks("a queue's size is one", "VirtQueue.vring VRing.num")
    pairs = tally.asks(
        "a network device's queue pairs are queues of its own",
        "VirtIONet.max_queue_pairs VirtIONet.vqs VirtIODevice.vq",
    )
    context = tally.context
    # What is in an array tells nothing while its size is not known.
    structs = context.layout.structs
    queues = queues if "VirtQueue" in structs else None
    pairs = pairs if queues and "VirtIONetQueue" in structs else None
    for address, obj in snapshot.objects.items():
        if not context.is_a(obj.type, "virtio-device"):
            continue
        record = tally.record("VirtIODevice", address)
        if record is None:
            continue
        if pairs and record["vq"] and context.is_a(obj.type, "virtio-net-device"):
            pairs(_are_its_own(tally, address, record["vq"]))
        if space and record["dma_as"]:
            space(record["dma_as"] in snapshot.spaces)
        if not queues or not record["vq"]:
            continue
        stride = context.layout.size("VirtQueue")
        try:
            words = context.image.words(record["vq"], stride * _QUEUES // 8)
        except (Unreadable, KeyError):
            queues(False)
            continue
        back = [i for i, word in enumerate(words) if word == address]
        gaps = {b - a for a, b in zip(back, back[1:])}
        queues(len(back) == _QUEUES and gaps == {stride // 8})
        for i in range(_QUEUES):
            row = tally.record("VirtQueue", record["vq"] + i * stride)
            if row is None:
                continue
            if inuse:
                inuse(row["inuse"] <= _ELEMENTS_MAX)
            if num:
                ring = tally.record("VRing", row.at("vring"))
                num(ring is not None and ring["num"] <= _ELEMENTS_MAX)


def _are_its_own(tally: Tally, device: int, queues: int) -> bool:
    """Whether each pair of a network device begins with its receive queue (virtio-net.c)."""
    context = tally.context
    record = tally.record("VirtIONet", device)
    if record is None or not 0 < record["max_queue_pairs"] <= _QUEUES_MAX // 2:
        return False
    stride, length = context.layout.size("VirtIONetQueue"), context.layout.size("VirtQueue")
    for i in range(record["max_queue_pairs"] if record["vqs"] else 0):
        place = tally.word(record["vqs"] + i * stride) - queues
        if place % length or not 0 <= place < _QUEUES_MAX * length:
            return False
    return True
