#!/usr/bin/env python3
"""Write docs/deep-hunts.md from campaigns of several QEMUs.

    tools/make_deep.py CAMPAIGN[@COMMIT]...

Each campaign is what ``qmr hunt --campaign FILE`` kept, mostly with ``--cycles`` or
``--error-paths``, by the qmr of a commit.  A finding is told once, with the QEMUs that have it,
its cause, and the line of QEMU's source that explains it where it is known here.
"""

from __future__ import annotations

import fnmatch
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qmrinspect.campaign.store import Store  # noqa: E402
from qmrinspect.documents import HuntRow  # noqa: E402
from qmrinspect.hunt.rows import is_bad  # noqa: E402

_ADDRESS = re.compile(r" ?<0x[0-9a-f]+>|qmr-no-such| on the monitor /\S+")
_MODELS = "CPU models"
PAGE = ROOT / "docs" / "deep-hunts.md"


class Source(NamedTuple):
    """What explains a finding: patterns of its device, its cause and its text."""

    device: str
    cause: str
    text: str
    where: str


_I82801B11 = (
    "hw/pci-bridge/i82801b11.c: the bridge has no exit: its windows stay in its parent's, and "
    "PCIBus.child leads to its bus, of which acpi_pcihp_get_bsel() dies now and then"
)
_SHPC = "hw/pci-bridge/pcie_pci_bridge.c: no shpc_free(), as pci_bridge_dev.c has at its end"
_VQS = "hw/virtio/vhost-user-base.c do_vhost_user_cleanup: the array vub->vqs is not freed"
_CAN = (
    ("ctucan_pci", "ctucan_pci"),
    ("kvaser_pci", "can_kvaser_pci"),
    ("mioe3680_pci", "can_mioe3680_pci"),
    ("pcm3680_pci", "can_pcm3680_pci"),
)

#: The first that fits is told.
SOURCES = (
    Source(
        *("*", "address-space-root", "*virtio-pci-cfg-mem-as*"),
        "hw/virtio/virtio-pci.c virtio_pci_realize: address_space_init() comes before the device's "
        "own realize, and only virtio_pci_exit() destroys it (since 55fa4be6f76a, 9.2)",
    ),
    Source("i82801b11-bridge", "*", "*list of buses*", _I82801B11),
    Source("i82801b11-bridge", "", "*SIGSEGV*", _I82801B11),
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
        *("chardev:qemu-vdagent", "savevm-entry", "*"),
        "ui/vdagent.c vdagent_chr_open: vmstate_register_any() without an unregister",
    ),
    Source(
        *("*-x86_64-cpu", "notifier", "*"),
        "target/i386/tcg/system/tcg-cpu.c tcg_cpu_realizefn: a machine-done notifier in the CPU "
        "that nothing removes",
    ),
    Source(
        *("chardev:pty", "unreachable-memory", "*/dev/pts/*"),
        "chardev/char-pty.c char_pty_finalize: pty_name is not freed",
    ),
    Source(
        *("chardev:vc", "grows-in-tree", "*"),
        "ui/console-vc.c: a text console stays in /backend for good",
    ),
    Source(
        *("virtio-9p*", "unreachable-memory", "* 344 bytes*"),
        "hw/9pfs/9p-synth.c synth_init: new nodes for . and .. of the root with every device",
    ),
    Source(
        *("virtio-9p*", "unreachable-memory", "* 688 bytes*"),
        "hw/9pfs/9p-synth.c synth_init: new nodes for . and .. of the root with every device",
    ),
    Source(
        *("cxl-switch-mailbox-cci", "unreachable-memory", "*"),
        "hw/cxl/switch-mailbox-cci.c cswmbcci_exit: no cxl_destroy_cci(), which frees the timer",
    ),
    Source(
        *("cxl-upstream", "unreachable-memory", "* 1048584 bytes*"),
        "hw/pci-bridge/cxl_upstream.c cxl_usp_exitfn: no pcie_doe_fini(), which frees the "
        "mailboxes that pcie_doe_init() made",
    ),
    Source(
        *("i82*", "savevm-entry", "*"),
        "hw/nvram/eeprom93xx.c eeprom93xx_new: vmstate_register() without an unregister",
    ),
    Source(
        *("*xhci*", "link-cycle", "*"),
        "hw/usb/hcd-xhci.c: the link host is strong, from a child to its parent",
    ),
    Source(
        *("*-cpu", "notifier", "*"),
        "target/i386/tcg/system/tcg-cpu.c: qemu_add_machine_init_done_notifier() without a removal",
    ),
    Source(
        *("chardev:braille", "fd-handler", "*"),
        "chardev/baum.c: qemu_set_fd_handler() for the display, never taken back",
    ),
    Source(
        *("chardev:qemu-vdagent", "savevm-entry", "*"),
        "ui/vdagent.c: vmstate_register_any() without an unregister",
    ),
    Source(
        *("object:cryptodev-backend-lkcf", "fd-handler", "*"),
        "backends/cryptodev-lkcf.c: qemu_set_fd_handler() for the event, never taken back",
    ),
    Source(
        *("i82801b11-bridge", "foreign-container", "*"),
        "hw/pci-bridge/i82801b11.c: the device has no exit function",
    ),
    Source(
        *("object:x-remote-object", "*", "*SIGSEGV*"),
        "hw/remote/remote-obj.c remote_object_machine_done: qdev_find_recursive() without a device",
    ),
    Source(
        *("object:tls-creds-anon", "*", "*SIGSEGV*"),
        "crypto/tlscredsanon.c qcrypto_tls_creds_anon_load: gnutls is given a pointer to nothing",
    ),
    Source(
        *("netdev:passt", "*", "*signal 15*"),
        "net/passt.c net_passt_cleanup: kill() of pid 0, its own group, where passt never started",
    ),
    Source(
        *("dc390", "", "*vmstate_register_with_alias_id*"),
        "hw/scsi/esp-pci.c dc390_scsi_realize: eeprom93xx_new() without eeprom93xx_free(), which "
        "unregisters its state",
    ),
    Source(
        *("rocker", "", "*msix_vector_unuse*"),
        "hw/net/rocker/rocker.c rocker_msix_uninit: msix_vector_unuse() after msix_uninit()",
    ),
    Source(
        *("object:colo-compare", "", "*qemu_mutex_destroy*"),
        "net/colo-compare.c colo_compare_finalize: event_mtx is destroyed where complete failed, "
        "and nothing initialized it",
    ),
    Source(
        *("ivshmem-doorbell", "fd-handler", "*"),
        "hw/misc/ivshmem-pci.c (ivshmem.c) watch_vector_notifier: qemu_set_fd_handler() on "
        "msi_vectors, never taken back",
    ),
    Source(
        *("chardev:qemu-vdagent", "input-handler", "*"),
        "ui/vdagent.c: qemu_input_handler_register() without an unregister",
    ),
    Source(
        *("vhost-user-input-pci", "fd-handler", "*"),
        "hw/input/vhost-user-input.c: no unrealize, so that nothing calls vhost_dev_cleanup()",
    ),
    Source("vhost-user-gpio-pci", "unreachable-memory", "*", _VQS),
    Source("vhost-user-input-pci", "unreachable-memory", "*", _VQS),
    Source("vhost-user-snd-pci", "unreachable-memory", "*", _VQS),
    Source(
        *("vhost-user-fs-pci", "unreachable-memory", "*"),
        "hw/virtio/vhost-user-fs.c vuf_device_unrealize: vhost_dev_cleanup() clears vhost_dev.vqs "
        "before g_free()",
    ),
    Source("pcie-pci-bridge", "unreachable-memory", "*", _SHPC),
    Source(
        *("pci-serial-[24]x", "unreachable-memory", "*"),
        "hw/char/serial-pci-multi.c multi_serial_init: qemu_init_irq() of irqs that nobody ends "
        "(mended by qemu_init_irq_child(), 11.1)",
    ),
    Source(
        *("usb-ehci", "unreachable-memory", "*"),
        "hw/usb/hcd-ehci-pci.c usb_ehci_pci_exit: g_free() of the irq, which is an object",
    ),
    Source(
        *("lsi53c895a", "unreachable-memory", "*"),
        "hw/scsi/lsi53c895a.c lsi_scsi_exit: timer_del(), and no timer_free()",
    ),
    Source(
        *("sdhci-pci", "unbalanced", "*irq*"),
        "hw/sd/sdhci-pci.c sdhci_pci_realize: pci_allocate_irq() without qemu_free_irq()",
    ),
    Source(
        *("x-pci-proxy-dev", "unbalanced", "*qio-channel*"),
        "hw/remote/proxy.c pci_proxy_dev_exit: qio_channel_close() of ioc, and no object_unref()",
    ),
    Source(
        *("ccid-card-emulated", "unreachable-memory", "*"),
        "hw/usb/ccid-card-emulated.c event_thread: the last event is not given to vevent_delete()",
    ),
    Source(
        *("host-x86_64-cpu", "unreachable-memory", "*"),
        "accel/kvm/kvm-accel-ops.c kvm_start_vcpu_thread: halt_cond, and the address space of "
        "cpu_address_space_init(), are not freed",
    ),
    Source(
        *("object:pr-manager-helper", "unreachable-memory", "*"),
        "scsi/pr-manager-helper.c pr_manager_helper_instance_finalize: path is not freed",
    ),
    Source(
        *("object:sev*guest", "unreachable-memory", "*/dev/sev*"),
        "target/i386/sev.c: sev_device of instance_init is not freed",
    ),
    Source(
        *("object:qtest", "unbalanced", "*chardev*"),
        "softmmu/qtest.c (system/qtest.c) qtest_set_chardev: object_ref() of the chardev, and no "
        "finalize",
    ),
    Source(
        *("object:qtest", "unreachable-memory", "* 24 bytes*"),
        "system/qtest.c qtest_server_start: g_string_new() of inbuf, never freed",
    ),
    Source(
        *("block:luks", "growing-memory", "*-secret*"),
        "block/crypto.c block_crypto_open_generic: qemu_opts_create() without qemu_opts_del()",
    ),
    Source(
        *("block:ssh", "unreachable-memory", "*127.0.0.1*"),
        "block/ssh.c ssh_close: inet is not freed",
    ),
    Source(
        *("block:vvfat", "unreachable-memory", "*"),
        "block/vvfat.c vvfat_close: array_free() of mappings, and not of the path that "
        "init_directories() gave the first",
    ),
    Source(
        *("block:dmg", "unreachable-memory", "*"),
        "util/module.c module_load: version_dir is not freed, for a module that is not there",
    ),
    Source(
        *("nvme*", "*-memory", "*nvme-bus*"),
        "hw/nvme/ctrl.c nvme_init_subsys: a subsystem that nobody unparents (since cd59f50ab0)",
    ),
    Source(
        *("nvme", "unreachable-memory", "*cannot connect*"),
        "hw/nvme/ctrl.c nvme_realize: what nvme_init_state() and pcie_doe_init() made stays where "
        "nvme_init_pci() fails",
    ),
    Source(
        *("nvme", "", "*cmb_size_mb*failed to allocate*"),
        "hw/nvme/ctrl.c nvme_init_cmb: g_malloc0() of any cmb_size_mb",
    ),
    Source(
        *("ivshmem-doorbell", "", "*failed to allocate*"),
        "hw/misc/ivshmem-pci.c ivshmem_setup_interrupts: g_new0() of any number of vectors",
    ),
    Source(
        *("ivshmem-doorbell", "unreachable-memory", "*interrupts*"),
        "hw/misc/ivshmem-pci.c ivshmem_common_realize: peers and msi_vectors stay where "
        "ivshmem_setup_interrupts() fails",
    ),
    Source(
        *("pci-testdev", "", "*is_power_of_2*"),
        "hw/misc/pci-testdev.c pci_testdev_realize: membar is not asked to be a power of 2",
    ),
    Source(
        *("pcie-root-port", "address-space-root", "*reserve*"),
        "hw/pci-bridge/gen_pcie_root_port.c gen_rp_realize: exit() alone where the reserve is "
        "wrong, which leaves the device's address space",
    ),
    *(
        Source(
            *(device, "unbalanced", "*connect_to_bus failed*"),
            f"hw/net/can/{file}.c: an irq is allocated before the bus is connected, and not freed "
            "where that fails",
        )
        for device, file in _CAN
    ),
)


def explained(row: HuntRow) -> str:
    """Return the line of QEMU's source that explains a finding, empty where none is known."""
    for source in SOURCES:
        cause = any(fnmatch.fnmatchcase(c, source.cause) for c in _causes(row) or [""])
        text = row.get("text", "")
        here = any(fnmatch.fnmatchcase(text, way) for way in (source.text, f"*{source.text}"))
        if fnmatch.fnmatchcase(row["device"], source.device) and cause and here:
            return source.where
    return ""


class Campaign(NamedTuple):
    """What one hunt found; ``how`` are its options, ``made`` its date and commit."""

    how: str
    made: str
    rows: Sequence[HuntRow]


def lines(campaigns: Sequence[Campaign]) -> Iterator[str]:
    """Yield the page."""
    found: dict[tuple[str, str, str, str], list[HuntRow]] = {}
    for row in [row for campaign in campaigns for row in campaign.rows]:
        if is_bad(row):
            known = explained(row)
            where = known or cell(_ADDRESS.sub("", row.get("text", "")))
            device = _MODELS if known and row["device"].endswith("-cpu") else row["device"]
            name = (device, row["outcome"], " ".join(_causes(row)), where)
            found.setdefault(name, []).append(row)
    yield "# Findings of deep hunts"
    yield ""
    yield "Made by `tools/make_deep.py` from campaigns; not written by hand. Deep hunts plug each"
    yield "device many times (`--cycles`) and in the ways that make its realize fail"
    yield "(`--error-paths`)."
    yield ""
    yield "| QEMU | hunt | made | devices | findings | clean |"
    yield "|---|---|---|---|---|---|"
    for options, made, rows in campaigns:
        devices = {row["device"] for row in rows if row.get("hotpluggable", True)}
        clean = devices - {row["device"] for row in rows if row["outcome"] != "clean"}
        bad = sum(map(is_bad, rows))
        version = _most(version_of(row) for row in rows)
        yield f"| {version} | `{options}` | {made} | {len(devices)} | {bad} | {len(clean)} |"
    yield ""
    yield "| device | QEMU | outcome | cause | how | explained by |"
    yield "|---|---|---|---|---|---|"
    for (device, outcome, causes, where), alike in sorted(found.items()):
        versions = ", ".join(sorted({version_of(one) for one in alike} - {""}))
        if device == _MODELS:
            models = sorted({one["device"] for one in alike})
            device = f"{len(models)} {device}" if len(models) > 1 else models[0]
        ways = [way for way in (one.get("error_path") for one in alike) if way]
        how = ["plug, unplug"] if len(ways) < len(alike) else []
        if ways:
            first = ways[0]["property"]
            how.append(f"`{first}`: {cell(ways[0]['message'])}")
            others = sorted({way["property"] for way in ways} - {first})
            how += [f"also `{'`, `'.join(others)}`"] if others else []
        yield f"| `{device}` | {versions} | {outcome} | {causes} | {'; '.join(how)} | {where} |"


def _causes(row: HuntRow) -> list[str]:
    return list(row.get("causes") or filter(None, [row.get("cause", "")]))


def version_of(row: HuntRow) -> str:
    return row.get("qemu_version", "").split(" ")[0]


def cell(text: str, most: int = 160) -> str:
    text = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= most else text[: most - 3] + "..."


def _most(values: Iterable[str]) -> str:
    counts = Counter(value for value in values if value)
    return counts.most_common(1)[0][0] if counts else ""


def read(text: str) -> Campaign:
    """Read a campaign, ``FILE`` or ``FILE@COMMIT``."""
    path, _, commit = text.partition("@")
    store = Store(path, create=False)
    rows = list(store.rows())
    store.close()
    version = _most(row.get("qemu_version", "") for row in rows)
    for row in rows:
        # One that died was not read.
        row["qemu_version"] = row.get("qemu_version") or version
    cycles = max((row["cycle"] for row in rows), default=1)
    deep = any("error_path" in row for row in rows)
    last = max((row["read"].get("at_us", 0) for row in rows if "read" in row), default=0)
    day = time.strftime("%Y-%m-%d", time.gmtime(last / 1e6)) if last else ""
    how = "--error-paths" if deep else "--cycles" if cycles > 1 else "hunt"
    return Campaign(how, f"{day} {commit}".strip(), rows)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    PAGE.write_text(
        "\n".join(lines([read(text) for text in sys.argv[1:]])) + "\n", encoding="utf-8"
    )
    print(PAGE)
