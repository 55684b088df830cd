#!/usr/bin/env python3
"""Write docs/deep-hunts.md from campaigns of several QEMUs.

    tools/make_deep.py CAMPAIGN...

Each campaign is what ``qmr hunt --campaign FILE`` kept, mostly with ``--cycles`` or
``--error-paths``.  A finding is told once, with the QEMUs that have it, its cause, and the line of
QEMU's source that explains it where it is known here.
"""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qmrinspect.campaign.store import Store  # noqa: E402
from qmrinspect.documents import HuntRow  # noqa: E402
from qmrinspect.hunt.rows import is_bad, key  # noqa: E402

PAGE = ROOT / "docs" / "deep-hunts.md"


class Source(NamedTuple):
    """What explains a finding: patterns of its device, its cause and its text."""

    device: str
    cause: str
    text: str
    where: str


#: The first that fits is told.
SOURCES = (
    Source(
        *("*", "address-space-root", "*virtio-pci-cfg-mem-as*"),
        "hw/virtio/virtio-pci.c virtio_pci_realize: address_space_init() comes before the device's "
        "own realize, and only virtio_pci_exit() destroys it (since 55fa4be6f76a, 9.2)",
    ),
    Source(
        *("*", "same-owner-subregions", "*"),
        "system/memory.c memory_region_add_subregion: a reference on the owner, also within one "
        "(mended by ac7a892fd3, 10.2)",
    ),
    Source(
        *("*usb-uhci", "unbalanced", "*irq*"),
        "hw/usb/hcd-uhci.c usb_uhci_common_realize: pci_allocate_irq() without qemu_free_irq()",
    ),
    Source(
        *("ich9-ahci", "unbalanced", "*irq*"),
        "hw/ide/ahci.c ahci_realize: qemu_allocate_irqs() for the ports, never freed",
    ),
    Source(
        *("i82*", "reset-handler", "*"),
        "hw/net/eepro100.c e100_nic_realize: qemu_register_reset() without an unregister",
    ),
    Source("qxl*", "*", "*", "hw/display/qxl.c: the device has no exit function"),
    Source(
        *("nvme*", "grows-in-tree", "*"),
        "hw/nvme/ctrl.c nvme_init_subsys: a subsystem that nobody unparents (since cd59f50ab0)",
    ),
    Source(
        *("*", "unreachable-memory", "*gl_unblock*"),
        "ui/console.c graphic_console_init: a new timer for a console that is used again",
    ),
    Source(
        *("*vga", "unreachable-memory", "1 block, *"),
        "ui/console.c graphic_console_init: a new timer for a console that is used again",
    ),
    Source(
        *("*", "*-memory", "*not compatible with CPR*"),
        "hw/display/vga.c vga_common_init: vmstate_register_ram() adds a migration blocker that "
        "nothing takes back",
    ),
    Source(
        *("*", "savevm-entry", "*"),
        "hw/nvram/eeprom93xx.c eeprom93xx_new: vmstate_register() without an unregister",
    ),
    Source(
        *("*xhci*", "link-cycle", "*"),
        "hw/usb/hcd-xhci.c: the link host is strong, from a child to its parent",
    ),
)


def explained(row: HuntRow) -> str:
    """Return the line of QEMU's source that explains a finding, empty where none is known."""
    for source in SOURCES:
        cause = any(fnmatch.fnmatchcase(c, source.cause) for c in row.get("causes") or [""])
        text = row.get("text", "")
        here = any(fnmatch.fnmatchcase(text, way) for way in (source.text, f"*{source.text}"))
        if fnmatch.fnmatchcase(row["device"], source.device) and cause and here:
            return source.where
    return ""


def lines(rows: Sequence[HuntRow]) -> Iterator[str]:
    """Yield the page."""
    found: dict[tuple[str, str, str], list[HuntRow]] = {}
    hunted: dict[str, int] = {}
    for row in rows:
        version = _version(row)
        if version:
            hunted[version] = hunted.get(version, 0) + 1
        if is_bad(row):
            found.setdefault(key(row), []).append(row)
    yield "# Findings of deep hunts"
    yield ""
    yield "Made by `tools/make_deep.py` from campaigns; not written by hand. Deep hunts plug each"
    yield "device many times (`--cycles`) and in the ways that make its realize fail"
    yield "(`--error-paths`)."
    yield ""
    counts = ", ".join(f"{version} ({n} rows)" for version, n in sorted(hunted.items()))
    yield f"Hunted: {counts}."
    yield ""
    yield "| device | QEMU | outcome | cause | how | explained by |"
    yield "|---|---|---|---|---|---|"
    for _, alike in sorted(found.items()):
        row = alike[0]
        versions = ", ".join(sorted({_version(one) for one in alike} - {""}))
        way = row.get("error_path")
        how = f"`{way['property']}`: {_cell(way['message'])}" if way else "plug, unplug"
        causes = ", ".join(f"`{cause}`" for cause in row.get("causes") or ())
        where = explained(row) or _cell(row.get("text", ""))
        yield f"| `{row['device']}` | {versions} | {row['outcome']} | {causes} | {how} | {where} |"


def _version(row: HuntRow) -> str:
    return row.get("qemu_version", "").split(" ")[0]


def _cell(text: str, most: int = 160) -> str:
    text = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= most else text[: most - 3] + "..."


def rows_of(paths: Sequence[str]) -> list[HuntRow]:
    """Return the rows of campaigns."""
    out: list[HuntRow] = []
    for path in paths:
        store = Store(path, create=False)
        out += store.rows()
        store.close()
    return out


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    PAGE.write_text("\n".join(lines(rows_of(sys.argv[1:]))) + "\n", encoding="utf-8")
    print(PAGE)
