"""What a cause means
------------------

For each word of a cause, an outcome or a finding two sentences: what it means, and how such bugs
were mended in QEMU.  Pages show them, and ``docs/causes.md`` has the same.
"""

from __future__ import annotations

from typing import NamedTuple

from ..audit.stale import CALLS

__all__ = ["ADVICE", "STALE", "Advice", "advice_for"]


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
        "What still holds it, shown here, releases it when the object is unparented, or never took "
        "a reference, as VNC displays no longer take one on their TLS credentials.",
        "521534df57",
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
        "The region is taken out of what the guest sees before its owner goes, as virtio devices "
        "now end their MSI-X regions only after the PCI core took them out.",
        "8b81bb3b06",
    ),
    "unreadable": Advice(
        "A structure could not be read, or is absurd, and was left out.",
        "Read again, as a VM that runs may have changed it just then; when it stays so, the layout "
        "does not fit (see qmr layout), or QEMU's memory was overwritten. No commit of QEMU's is "
        "known for it.",
    ),
}

# By kind of what is stale: who ends it, and a commit that did.
_ENDS = {
    "reset-handler": (
        "Unrealize calls qemu_unregister_reset(), or the reset is the class's own and needs no "
        "handler, as EHCI controllers have it now.",
        "4e289b1b62",
    ),
    "vm-change-handler": (
        "Unrealize calls qemu_del_vm_change_state_handler(), as USB redirection does now.",
        "07b026fd82",
    ),
    "timer": (
        "Unrealize calls timer_del() or timer_free(), as HDA codecs do now for the one of each "
        "stream.",
        "f27206ceed",
    ),
    "bottom-half": ("Unrealize calls qemu_bh_delete(), as virtio-gpu does now.", "957d77863e"),
    "fd-handler": (
        "Unrealize calls qemu_set_fd_handler() without functions before the descriptor is closed. "
        "No commit of QEMU's is known for it.",
        None,
    ),
    "savevm-entry": (
        "Unrealize calls vmstate_unregister() or unregister_savevm(), as virtio-scsi does now.",
        "eb2fa76418",
    ),
    "notifier": (
        "Unrealize removes it (notifier_remove()), as virtio-net now removes its notifier of "
        "migration.",
        "1e157667d7",
    ),
    "irq-handler": (
        "Who allocated the irq frees it (qemu_free_irq()), as sdhci-pci does now, or connects the "
        "input of a device that lives as long.",
        "1c2d03bb08",
    ),
    "memory-listener": (
        "Unrealize calls memory_listener_unregister(), as virtio devices do now.",
        "f6ab64c05f",
    ),
    "request": (
        "Unrealize waits for what was queued or cancels it (blk_drain(), "
        "scsi_device_purge_requests()), as virtio-blk does now.",
        "7bfde688fb",
    ),
    "packet": (
        "What ends the queue drops what waits in it (qemu_purge_queued_packets()), as the end of a "
        "NIC does now.",
        "d2abc563e4",
    ),
    "chardev-handler": (
        "Unrealize takes its handlers off the character device (qemu_chr_fe_deinit(), before 2.8 "
        "qemu_chr_add_handlers() without functions), as virtio-console does now.",
        "f9a90f189c",
    ),
    "drive-handler": (
        "Who set the operations of a block backend unsets them (blk_set_dev_ops() without any, "
        "blk_detach_dev()), as exports do now.",
        "de79b52604",
    ),
    "input-handler": (
        "Who registered it calls qemu_input_handler_unregister(), as vdagent does now.",
        "878490937c",
    ),
    "eventfd": (
        "It is unset (memory_region_del_eventfd()) while what holds it still lives, as virtio "
        "devices behind PCI do now.",
        "06a1307379fc",
    ),
    "iommu-notifier": (
        "Who registered it calls memory_region_unregister_iommu_notifier(), as VFIO's containers "
        "do now.",
        "f8d8a94400",
    ),
    "migration-blocker": (
        "Unrealize, and the error path of realize, call migrate_del_blocker(). No commit of QEMU's "
        "is known for it.",
        None,
    ),
    "bus-list": (
        "The exit of a bridge, and the error path of its realize, call pci_bridge_exitfn(), as "
        "pci-bridge does now.",
        "80aa796bf3",
    ),
    "list": (
        "Unrealize, and the error path of realize, take it off the list (QLIST_REMOVE(), "
        "QTAILQ_REMOVE()), as VFIO devices now leave their group's.",
        "2b43b2995b",
    ),
    "address-space": (
        "Unrealize, and the error path of realize, call address_space_destroy(); for those of "
        "CPUs QEMU 10.2 does it.",
        "300a87c502",
    ),
    "child": (
        "A region in the memory of a device gets that as its owner (memory_region_init_io() and "
        "its like), so that it is unparented with it: without one it is a child of "
        "/machine/unattached for good. No commit of QEMU's is known for it.",
        None,
    ),
    "link": (
        "Unrealize, or who frees it, sets the link to NULL, or makes it strong "
        "(OBJ_PROP_LINK_STRONG). No commit of QEMU's is known for it.",
        None,
    ),
    "subregion": (
        "Unrealize, and the error path of realize, call memory_region_del_subregion(); a region "
        "that has its device as its owner keeps that alive till then. No commit of QEMU's is known "
        "for it.",
        None,
    ),
}


def _stale(kind: str, mended: str, commit: str | None) -> Advice:
    holder, when = CALLS[kind]
    meaning = f"{holder} still leads to what is gone or out of the tree, and would use it {when}."
    return Advice(meaning[0].upper() + meaning[1:], mended, commit)


#: The causes of a stale device: what still leads to it.
STALE = {kind: _stale(kind, *ends) for kind, ends in _ENDS.items()}


def advice_for(word: str) -> Advice | None:
    """Return the two sentences for a cause, an outcome or a kind of finding."""
    return ADVICE.get("held-by" if word.startswith("held-by-") else word) or STALE.get(word)
