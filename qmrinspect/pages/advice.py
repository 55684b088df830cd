"""What a cause means
------------------

For each word of a cause, an outcome or a finding two sentences: what it means, and how such bugs
were mended in QEMU.  Pages show them, and ``docs/causes.md`` has the same.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ADVICE", "Advice", "advice_for"]


class Advice(NamedTuple):
    """Two sentences.

    :param commit: the QEMU commit that mended such a bug, None where none is known.
    """

    meaning: str
    mended: str
    commit: str | None = None

    @property
    def url(self) -> str | None:
        """Return where the commit can be read, None where none is known."""
        if self.commit is None:
            return None
        return f"https://gitlab.com/qemu-project/qemu/-/commit/{self.commit}"


ADVICE = {
    "same-owner-subregions": Advice(
        "The device put regions of its own into a container of its own, and under this QEMU's "
        "rule each of them takes a reference on the owner: the device counts on itself, and its "
        "count cannot reach 0.",
        "Since QEMU 10.2 no reference is taken within one owner; in an older one unrealize calls "
        "memory_region_del_subregion() for each region.",
        "ac7a892fd3",
    ),
    "address-space-root": Advice(
        "An address space that is part of the device has a region of the device as its root, and "
        "references the root's owner until it is destroyed.",
        "Unrealize, and the error path of realize, call address_space_destroy(); for those of "
        "CPUs QEMU 10.2 does it.",
        "300a87c502",
    ),
    "link-cycle": Advice(
        "A part of the device has a strong link back to the device: each keeps the other alive.",
        "The link is cleared when the device is unplugged, as xHCI controllers do it now, or it "
        "is a weak one.",
        "054ef33f674c",
    ),
    "reference-cycle": Advice(
        "Something below the device holds a counted pointer to it, which only the end of the "
        "device would drop.",
        "A child lives no longer than its parent and needs no reference on it, as SCSI requests "
        "no longer take one on their device.",
        "7e7df20724",
    ),
    "foreign-container": Advice(
        "A region of the device is still in a container that another object owns; every rule "
        "references the device for it, and the guest may still reach it.",
        "Who put the region in takes it out with memory_region_del_subregion(); that this is "
        "left to the device, docs/devel/memory.rst says since QEMU 10.2.",
        "62e82053fc",
    ),
    "unbalanced": Advice(
        "A reference was taken, and no structure that qmr knows holds it any more: nobody is left "
        "who could drop it.",
        "Whoever took it gets the missing counterpart (qemu_free_irq(), object_unref(), "
        "memory_region_unref()); an irq that is embedded in its device became a child of it.",
        "d1c9061b97",
    ),
    "held-by": Advice(
        "Another object, or a variable of QEMU, that lives on has a counted pointer to the device.",
        "Unrealize makes the holder release it: unregister the listener, close the console, clear "
        "the link; removing a memory listener, say, ends all that it took.",
        "d25836cafd",
    ),
    "grows-in-tree": Advice(
        "Every cycle adds an object that stays in the QOM tree with all its references in order: "
        "nothing is wrong with one of them, and they become more without end.",
        "Unrealize, and the error path of realize, call object_unparent() for what realize made, "
        "as vhost-user does now for the region of a notifier; or realize makes it a child of the "
        "device.",
        "1f89d3b91e",
    ),
    "unreachable-memory": Advice(
        "A block of memory that is no object was left behind, and nothing points to it any more.",
        "The end of the device frees what its beginning allocated, also on the error path, as "
        "virtio-9p now deletes its queue.",
        "9580d60e66",
    ),
    "growing-memory": Advice(
        "Blocks of memory that are no objects become more with every cycle.",
        "The end of the device frees what its beginning allocated, or takes it off the list that "
        "keeps it, also on the error path, as VFIO devices now leave their group's list.",
        "2b43b2995b",
    ),
    "stale": Advice(
        "The device is gone, or out of the tree, and something live would still call into it or "
        "read it: a reset handler, a timer, a bottom half, a file descriptor's handler.",
        "Unrealize unregisters what realize registered, with the same opaque pointer: "
        "qemu_unregister_reset(), timer_del(), qemu_bh_delete(), "
        "qemu_del_vm_change_state_handler(); virtio-gpu, say, now deletes its bottom halves.",
        "957d77863e",
    ),
    "delayed": Advice(
        "What still holds the object is transient: RCU's grace period, or a flat view until it "
        "is made anew.",
        "There is nothing to mend; look again after the next change of the memory map.",
    ),
    "crash": Advice(
        "QEMU died while the device was plugged, used or unplugged; its last message and the "
        "backtrace say where.",
        "Mostly an order: what unplugging still needs goes before it is used. ioeventfds of "
        "virtio devices, say, are now unset before their queues go.",
        "06a1307379fc",
    ),
    "hang": Advice(
        "QEMU did not answer its monitor in time; the backtrace shows what its threads wait for.",
        "Mostly a wait under the big lock for something that needs the lock, or for a peer that "
        "is silent; device_add, say, waited for an RCU reader that never left, and now makes it "
        "leave.",
        "dd47a8f654",
    ),
    "refused": Advice(
        "QEMU refused to plug or unplug the device; its message says why.",
        "This is no fault of QEMU's, unless the refused device left something behind.",
    ),
    "not-acked": Advice(
        "The guest was asked to release the device, and did not.",
        "This is no leak; a guest that runs, a reset, or qmr unplug in its place finish it.",
    ),
    "orphan": Advice(
        "The object is alive in memory, and the QOM tree no longer holds it.",
        "What still holds it, shown here, has to release it when the object is unparented.",
    ),
    "cycle": Advice(
        "The objects hold each other, and nothing else holds them.",
        "One of the references is dropped when the device is unrealized, as xHCI controllers now "
        "clear the link to their host, or is not counted.",
        "054ef33f674c",
    ),
    "unexplained": Advice(
        "The object counts more references than there are fields that hold it.",
        "Search who takes one and does not drop it (qmr trace names the lines), and give it the "
        "missing counterpart.",
        "d1c9061b97",
    ),
    "underflow": Advice(
        "More fields hold the object than it counts: somebody dropped a reference that was not "
        "theirs, and when the last count goes the fields point to freed memory.",
        "The second object_unref() goes, as in migration to a file, where g_autoptr() dropped the "
        "same reference once more; or the field takes a reference of its own.",
        "84ac6fa12d",
    ),
    "dangling": Advice(
        "A counted pointer leads to something that is no live object.",
        "The field is cleared where its reference is dropped, or takes a reference of its own, as "
        "the bottom half of a migration now does.",
        "27eb8499ed",
    ),
    "visible-unreferenced": Advice(
        "The guest can reach a region whose owner is not referenced for it: an access after the "
        "owner is gone uses freed memory.",
        "The region is taken out of what the guest sees before its owner goes.",
    ),
    "unreadable": Advice(
        "A structure could not be read, or is absurd, and was left out.",
        "When it stays so, the layout does not fit: see qmr layout.",
    ),
}


def advice_for(word: str) -> Advice | None:
    """Return the two sentences for a cause, an outcome or a kind of finding."""
    return ADVICE.get("held-by" if word.startswith("held-by-") else word)
