"""Named sets of devices
---------------------

What a QEMU is started with when its books are to be put to the test: ``none``, and
``mixed``, a machine full of unlike devices, backends and character devices.

A set is data: one line of arguments for each part.  Which parts a QEMU can have is
not asked beforehand.  It is started, and a part that it refuses by name is left out,
with the reason that it gave.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["DEVICE_SETS", "VHOST_USER", "Part", "arguments", "make_files"]

#: The socket, in the directory of the set, at whose other end is a vhost-user backend.
VHOST_USER = "peers/vhost-user"

# The size of each disk, in bytes.
_DISK = 8 << 20

# Disks that a device set makes, sparse.
_DISKS = 14


class Part(NamedTuple):
    """One line of QEMU arguments.

    :param words: separated by blanks.  ``{dir}`` stands for a directory; ``{disk0}`` and so on
        are the ``-drive`` options of small disks, ``{file0}`` the ``-blockdev`` options of the
        same; ``{root}`` puts a device on the machine's root bus.
    :param machines: the machine types that it is for.
    :param sign: what QEMU says when it refuses the part without naming it.
    """

    words: str
    machines: Sequence[str] = ("pc", "q35", "virt")
    sign: str | None = None


_ALL = ("pc", "q35", "virt", "microvm")
_PC = ("pc", "q35")

# Backends come first: QEMU makes what the options name in an order of its own, but what
# it refuses is looked for by name, and a device without its backend is refused as well.
_BACKENDS = (
    Part("-object iothread,id=io0", _ALL),
    Part("-object iothread,id=io1", _ALL),
    Part("-object throttle-group,id=tg0,x-iops-total=100000", _ALL),
    Part("-object secret,id=sec0,data=letmein", _ALL),
    Part("-object authz-simple,id=authz0,identity=nobody", _ALL),
    Part("-object tls-creds-anon,id=tls0,endpoint=server", _ALL, "TLS credentials support"),
    Part("-object rng-random,id=rng0,filename=/dev/urandom", _ALL),
    Part("-object rng-builtin,id=rng1", _ALL),
    Part("-object cryptodev-backend-builtin,id=crypto0", _ALL),
    Part("-object memory-backend-ram,id=ram1,size=64M"),
    Part("-object memory-backend-memfd,id=ram2,size=4M,share=on"),
    Part("-object memory-backend-ram,id=ram3,size=64M"),
    Part("-object memory-backend-file,id=ram4,size=64M,share=on,mem-path={dir}/pmem"),
    Part("-object memory-backend-file,id=ram5,size=64K,share=on,mem-path={dir}/erst"),
    Part("-object can-bus,id=can0"),
    # A vhost-user backend maps the guest's memory.
    Part("-object memory-backend-memfd,id=node0,size=256M,share=on"),
    Part("-numa node,nodeid=0,memdev=node0"),
    Part("-audiodev none,id=audio0"),
    Part("-chardev socket,id=sock0,path={dir}/sock0,server=on,wait=off", _ALL),
    Part("-chardev socket,id=sock1,path={dir}/sock1,server=on,wait=off", _ALL),
    Part("-chardev socket,id=sock2,path={dir}/sock1", _ALL),
    Part(
        "-chardev socket,id=sock3,host=127.0.0.1,port=0,server=on,wait=off,"
        "tls-creds=tls0,tls-authz=authz0"
    ),
    Part("-chardev socket,id=sock4,host=127.0.0.1,port=0,server=on,wait=off,websocket=on"),
    Part("-chardev file,id=file0,path={dir}/file0", _ALL),
    Part("-chardev pipe,id=pipe0,path={dir}/pipe0", _ALL),
    Part("-chardev pty,id=pty0", _ALL),
    Part("-chardev pty,id=pty1", _ALL),
    Part("-chardev ringbuf,id=ring0,size=4096", _ALL),
    Part("-chardev udp,id=udp0,host=127.0.0.1,port=9", _ALL),
    Part("-chardev null,id=mux0,mux=on"),
    Part("-chardev null,id=null0"),
    Part("-chardev null,id=null1"),
    Part("-chardev vc,id=vc0"),
    *(Part(f"-chardev socket,id=vhost{n},path={{dir}}/{VHOST_USER}") for n in range(4)),
    Part("-mon chardev=sock0,mode=control", _ALL),
    Part("-mon chardev=mux0,mode=readline"),
    Part("-netdev hubport,id=hub0,hubid=0", _ALL),
    Part("-netdev hubport,id=hub1,hubid=0", _ALL),
    Part("-netdev hubport,id=hub2,hubid=0"),
    Part("-netdev hubport,id=hub3,hubid=0"),
    Part("-netdev hubport,id=hub4,hubid=0"),
    Part("-netdev socket,id=net0,udp=127.0.0.1:9,localaddr=127.0.0.1:0"),
    Part("-netdev stream,id=net1,server=on,addr.type=unix,addr.path={dir}/net1"),
    Part("-netdev stream,id=net2,server=off,addr.type=unix,addr.path={dir}/net1"),
    Part(
        "-netdev dgram,id=net3,local.type=unix,local.path={dir}/net3,"
        "remote.type=unix,remote.path={dir}/net4"
    ),
    Part("-netdev user,id=net5,restrict=on", _ALL),
    Part("-netdev vhost-user,id=net6,chardev=vhost0"),
    Part("-object filter-dump,id=dump0,netdev=hub0,file={dir}/dump0", _ALL),
    Part("-object filter-buffer,id=buffer0,netdev=hub1,interval=1000"),
    Part("-vnc unix:{dir}/vnc,tls-creds=tls0", sign="VNC support is disabled"),
    Part("-fsdev local,id=fs0,path={dir},security_model=none", _ALL),
    Part("-drive if=none,id=drive0,{disk0},throttling.iops-total=90000,throttling.group=tgd"),
    Part("-drive if=none,id=drive1,{disk1},throttling.iops-total=90000,throttling.group=tgd"),
    Part("-blockdev driver=raw,node-name=raw0,{file2}", _ALL),
    Part("-blockdev driver=throttle,node-name=thr0,throttle-group=tg0,file=raw0", _ALL),
    *(Part(f"-blockdev driver=raw,node-name=disk{n},{{file{n}}}", _ALL) for n in range(3, _DISKS)),
    Part("-blockdev driver=null-co,node-name=null-disk,size=8388608,read-zeroes=on", _ALL),
)

_PCI = (
    Part("-device intel-iommu,intremap=off", ("q35",)),
    Part("-device pcie-root-port,id=rp0,bus=pcie.0,chassis=10,slot=10", ("q35",)),
    Part("-device pcie-root-port,id=rp1,bus=pcie.0,chassis=11,slot=11", ("q35",)),
    Part("-device pcie-root-port,id=rp2,bus=pcie.0,chassis=12,slot=12", ("q35",)),
    Part("-device x3130-upstream,id=up0,bus=rp2", ("q35",)),
    Part("-device xio3130-downstream,id=down0,bus=up0,chassis=13,slot=13", ("q35",)),
    Part("-device pxb-pcie,id=pxb0,bus=pcie.0,bus_nr=128", ("q35",)),
    Part("-device pxb,id=pxb0,bus=pci.0,bus_nr=128", ("pc",)),
    Part("-device pci-bridge,id=br0,{root},chassis_nr=1"),
    Part("-device pci-bridge,id=br1,{root},chassis_nr=2"),
    Part("-device virtio-net-pci,id=vnet0,netdev=hub0,{root}", ("pc", "virt")),
    Part("-device virtio-net-pci,id=vnet0,netdev=hub0,bus=rp0", ("q35",)),
    Part("-device virtio-blk-pci,id=vblk0,{root},drive=thr0,iothread=io0"),
    Part("-device virtio-blk-pci,id=vblk1,{root},drive=disk3"),
    Part("-device virtio-scsi-pci,id=vscsi0,{root},iothread=io0"),
    Part("-device scsi-hd,id=shd0,bus=vscsi0.0,drive=drive0"),
    Part("-device scsi-cd,id=scd0,bus=vscsi0.0,drive=drive1"),
    Part("-device virtio-serial-pci,id=vser0,{root}"),
    Part("-device virtconsole,id=vcon0,bus=vser0.0,chardev=ring0"),
    Part("-device virtserialport,id=vport0,bus=vser0.0,chardev=sock1,name=port0"),
    Part("-device virtio-balloon-pci,id=vball0,{root},free-page-hint=on,iothread=io1"),
    Part("-device virtio-rng-pci,id=vrng0,{root},rng=rng0"),
    Part("-device virtio-9p-pci,id=v9p0,{root},fsdev=fs0,mount_tag=tag0"),
    Part("-device virtio-crypto-pci,id=vcry0,{root},cryptodev=crypto0"),
    Part("-device virtio-gpu-pci,id=vgpu0,{root},max_outputs=2"),
    Part("-device virtio-keyboard-pci,id=vkbd0,bus=br0,addr=1"),
    Part("-device virtio-tablet-pci,id=vtab0,bus=br0,addr=2"),
    Part("-device virtio-mem-pci,id=vmem0,{root},memdev=ram3,requested-size=32M"),
    Part("-device virtio-pmem-pci,id=vpmem0,{root},memdev=ram4"),
    Part("-device virtio-sound-pci,id=vsnd0,{root},audiodev=audio0"),
    Part("-device nvme-subsys,id=subsys0,nqn=subsys0"),
    Part("-device nvme,id=nvme0,{root},serial=nvme0,subsys=subsys0"),
    Part("-device nvme-ns,id=ns0,bus=nvme0,drive=disk4"),
    Part("-device e1000e,id=e1000e0,netdev=hub1,{root}", ("pc", "virt")),
    Part("-device e1000e,id=e1000e0,netdev=hub1,bus=rp1", ("q35",)),
    Part("-device igb,id=igb0,netdev=net1,bus=down0", ("q35",)),
    Part("-device e1000,id=e1000,netdev=hub2,bus=br1,addr=9"),
    Part("-device rtl8139,id=rtl0,netdev=net0,bus=br0,addr=3"),
    Part("-device vmxnet3,id=vmx0,{root},netdev=net2"),
    Part("-device i82559er,id=eepro0,netdev=net3,bus=br0,addr=4"),
    Part("-device pcnet,id=pcnet0,netdev=net5,bus=br0,addr=5"),
    Part("-device qemu-xhci,id=xhci0,{root}"),
    Part("-device usb-ehci,id=ehci0,{root}"),
    Part("-device piix3-usb-uhci,id=uhci0,bus=br0,addr=6"),
    Part("-device usb-storage,id=ustor0,bus=xhci0.0,drive=disk5"),
    Part("-device usb-hub,id=uhub0,bus=xhci0.0"),
    Part("-device usb-kbd,id=ukbd0,bus=xhci0.0"),
    Part("-device usb-audio,id=uaud0,bus=xhci0.0,audiodev=audio0"),
    Part("-device usb-tablet,id=utab0,bus=ehci0.0"),
    Part("-device usb-mouse,id=umouse0,bus=uhci0.0"),
    Part("-device usb-serial,id=user0,bus=uhci0.0,chardev=pty1"),
    Part("-device usb-net,id=unet0,bus=xhci0.0,netdev=hub3"),
    Part("-device megasas,id=mega0,{root}"),
    Part("-device scsi-hd,id=shd1,bus=mega0.0,drive=disk6"),
    Part("-device lsi53c895a,id=lsi0,bus=br0,addr=7"),
    Part("-device scsi-hd,id=shd2,bus=lsi0.0,drive=disk7"),
    Part("-device scsi-hd,id=shd5,bus=lsi0.0,drive=null-disk"),
    Part("-device mptsas1068,id=mpt0,{root}"),
    Part("-device scsi-hd,id=shd3,bus=mpt0.0,drive=disk8"),
    Part("-device pvscsi,id=pvs0,{root}"),
    Part("-device scsi-hd,id=shd4,bus=pvs0.0,drive=disk9"),
    # Bookworm's SeaBIOS never returns from a disk behind this one, nor from a hard disk on an
    # AHCI port, when it runs on a QEMU 10.
    Part("-device am53c974,id=am0,bus=br0,addr=8"),
    Part("-device ich9-ahci,id=ahci0,{root}"),
    Part("-device ide-hd,id=ihd0,bus=ide.0,drive=disk10", ("pc",)),
    Part("-device ide-cd,id=icd0,bus=ahci0.1,drive=disk11"),
    Part("-device sdhci-pci,id=sdhci0,bus=br0,addr=9"),
    Part("-device sd-card,id=sd0,drive=disk12"),
    Part("-device intel-hda,id=hda0,bus=br0,addr=10"),
    Part("-device hda-duplex,id=duplex0,bus=hda0.0,audiodev=audio0"),
    Part("-device AC97,id=ac0,audiodev=audio0,bus=br0,addr=11"),
    Part("-device ES1370,id=es0,audiodev=audio0,bus=br0,addr=12"),
    Part("-device secondary-vga,id=svga0,bus=br1,addr=10"),
    Part("-device bochs-display,id=bochs0,bus=br0,addr=13"),
    Part("-device cirrus-vga,id=cirrus0,bus=br0,addr=14"),
    Part("-device ati-vga,id=ati0,bus=br0,addr=15"),
    Part("-device ivshmem-plain,id=shm0,memdev=ram2,bus=br0,addr=16"),
    Part("-device acpi-erst,id=erst0,memdev=ram5,bus=br1,addr=11"),
    Part("-device edu,id=edu0,bus=br0,addr=17"),
    Part("-device pvpanic-pci,id=panic0,bus=br1,addr=1"),
    Part("-device pci-testdev,id=test0,bus=br1,addr=2"),
    Part("-device pci-serial,id=pser0,chardev=file0,bus=br1,addr=3"),
    Part("-device pci-serial-2x,id=pser1,chardev1=null0,chardev2=null1,bus=br1,addr=4"),
    Part("-device i6300esb,id=wdt0,bus=br1,addr=5"),
    Part("-device ctucan_pci,id=can1,canbus0=can0,canbus1=can0,bus=br1,addr=6"),
    Part("-device tpci200,id=tpci0,bus=br1,addr=7"),
    Part("-device ne2k_pci,id=ne0,netdev=hub4,bus=br1,addr=8"),
    # QEMU 7.2 without KVM dies when a guest starts this one with vectors (virtio-pci.c
    # kvm_virtio_pci_irqfd_use).
    Part("-device virtio-net-pci,id=vunet0,netdev=net6,vectors=0,bus=br1,addr=12"),
    Part("-device vhost-user-blk-pci,id=vublk0,chardev=vhost1,bus=br1,addr=13"),
    Part("-device vhost-user-fs-pci,id=vufs0,chardev=vhost2,tag=vufs0,bus=br1,addr=14"),
    Part("-device vhost-user-scsi-pci,id=vuscsi0,chardev=vhost3,bus=br1,addr=15"),
    Part("-device pc-dimm,id=dimm0,memdev=ram1", _PC),
    Part("-device isa-serial,id=iser0,chardev=pty0,index=1", _PC),
    Part("-device isa-debugcon,id=dcon0,chardev=pipe0", _PC),
    Part("-device isa-debug-exit,id=dexit0", _PC),
    Part("-device pvpanic,id=panic1", _PC),
    Part("-device ipmi-bmc-sim,id=bmc0"),
    Part("-device isa-ipmi-kcs,id=kcs0,bmc=bmc0", _PC),
    Part("-device vmgenid,id=genid0", _PC),
    Part("-device vmcoreinfo,id=core0"),
)

# microvm has eight virtio-mmio transports by default.
_MMIO = tuple(
    Part("-device " + words, ("microvm",))
    for words in (
        "virtio-blk-device,id=vblk0,drive=thr0",
        # An iothread needs eventfds of the transport, which only KVM gives it.
        "virtio-blk-device,id=vblk1,drive=disk4,iothread=io0",
        "virtio-scsi-device,id=vscsi0",
        "scsi-hd,id=shd0,bus=vscsi0.0,drive=disk3",
        "virtio-net-device,id=vnet0,netdev=hub0",
        "virtio-serial-device,id=vser0",
        "virtconsole,id=vcon0,bus=vser0.0,chardev=ring0",
        "virtserialport,id=vport0,bus=vser0.0,chardev=sock1,name=port0",
        "virtio-balloon-device,id=vball0,free-page-hint=on,iothread=io1",
        "virtio-rng-device,id=vrng0,rng=rng0",
        "virtio-keyboard-device,id=vkbd0",
    )
)

#: The parts by the set's name.
DEVICE_SETS: dict[str, tuple[Part, ...]] = {
    "none": (),
    "mixed": (*_BACKENDS, *_PCI, *_MMIO),
}

_ROOT_BUS = {"pc": "bus=pci.0", "q35": "bus=pcie.0", "virt": "bus=pcie.0"}


def make_files(directory: Path) -> None:
    """Make the disks and pipes that the parts name, in an empty directory."""
    for n in range(_DISKS):
        with open(directory / f"disk{n}", "wb") as disk:
            disk.truncate(_DISK)
    os.mkfifo(directory / "pipe0")
    (directory / VHOST_USER).parent.mkdir()


def arguments(part: Part, machine: str, directory: Path) -> list[str]:
    """Return the arguments that a part stands for.

    :param machine: the machine type, without options.
    :param directory: where its files are.
    """
    places = {"dir": str(directory), "root": _ROOT_BUS.get(machine, "")}
    for n in range(_DISKS):
        path = directory / f"disk{n}"
        places[f"disk{n}"] = f"file={path},format=raw"
        places[f"file{n}"] = f"file.driver=file,file.filename={path}"
    return [word.format_map(places) for word in part.words.split()]
