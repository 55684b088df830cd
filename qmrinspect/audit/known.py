"""Devices that are known to leak
------------------------------

What hunts on released QEMUs (7.2 to 11.1) found.  Nobody asks here what a device does: it is for
a word of warning before one is plugged into a VM that somebody uses.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["known_trouble"]

#: The cause that a QEMU's policy may rule out; see docs/policies.md.
SAME_OWNER = "same-owner-subregions"
#: Policies under which a region of the same owner keeps nobody alive.
_HARMLESS = frozenset(("owner-shared", "subregion-ref", "no-ref"))

_LEAKS: Mapping[str, tuple[str, ...]] = {
    "bochs-display": (SAME_OWNER,),
    "cxl-downstream": (SAME_OWNER,),
    "cxl-type3": (SAME_OWNER,),
    "cxl-upstream": (SAME_OWNER,),
    "i82801b11-bridge": ("foreign-container",),
    "ich9-intel-hda": (SAME_OWNER,),
    "intel-hda": (SAME_OWNER,),
    "nec-usb-xhci": ("link-cycle", SAME_OWNER),
    "qemu-xhci": ("link-cycle", SAME_OWNER),
    "qxl": ("held-by-link",),
    "ich9-ahci": ("unbalanced",),
    "piix3-usb-uhci": ("unbalanced",),
    "piix4-usb-uhci": ("unbalanced",),
    "sdhci-pci": ("unbalanced",),
    "x-pci-proxy-dev": ("unbalanced",),
}
_CPU = (SAME_OWNER, "address-space-root")
_CRASHES = frozenset(("rocker", "object:colo-compare", "object:x-remote-object"))


def known_trouble(driver: str, policy: str) -> str:
    """Return what is known of a device: ``crash``, the causes of its leak, or nothing.

    :param policy: that the QEMU follows.
    """
    if driver in _CRASHES:
        return "crash"
    causes = _CPU if driver.endswith("-cpu") else _LEAKS.get(driver, ())
    return ", ".join(c for c in causes if c != SAME_OWNER or policy not in _HARMLESS)
