#!/usr/bin/env python3
"""Make a tiny Linux guest from the distribution's own packages.

The kernel and a static busybox are downloaded and unpacked, not installed; the
initramfs is written here.  No root is needed, and nothing but the paths of the
kernel and of the initramfs goes to stdout, one a line.

    tools/make_guest.py                      # the kernel for clouds: small, virtio and NVMe
    tools/make_guest.py --flavour generic    # everyone's kernel: USB, AHCI, e1000e, ... too

The guest loads the drivers, brings its network links up, prints QMR-GUEST-READY on
the first serial port and sleeps.  Words on the kernel's command line ask for more:

    qmr.io=1    read every disk and send on every link, for as long as it runs
    qmr.sh=1    a shell on the serial port

The result is kept outside the repository, by kernel version and by a hash of this
script, and found again without a look at the archive.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import re
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import workshop
from workshop import ToolError, say

FLAVOURS = {"cloud": "linux-image-cloud-amd64", "generic": "linux-image-amd64"}

# What the guest drives.  What a kernel has built in, or lacks, is passed over.
MODULES = """
    virtio_pci virtio_mmio virtio_net virtio_blk virtio_scsi virtio_console virtio_balloon
    virtio_rng virtio_input virtio_mem virtio_pmem virtio_crypto virtio_gpu virtio_iommu
    9pnet_virtio e1000 e1000e igb 8139cp 8139too vmxnet3 pcnet32 ne2k_pci tulip e100
    nvme ahci ata_piix vmw_pvscsi
    sd_mod sr_mod xhci_pci ehci_pci uhci_hcd ohci_pci usb_storage uas usbhid hid_generic
    usbnet cdc_ether rndis_host sdhci_pci mmc_block snd_hda_intel snd_hda_codec_generic
    snd_intel8x0 snd_ens1370 i6300esb pvpanic_pci pvpanic_mmio qemu_fw_cfg
    acpiphp pciehp shpchp
""".split()

INIT = r"""#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
exec </dev/console >/dev/console 2>&1
echo 1 >/proc/sys/kernel/printk
for module in $(cat /modules); do insmod "/lib/$module" 2>/dev/null; done
read_disks() {
    while :; do
        for path in /sys/block/*; do
            disk=${path##*/}
            case $disk in loop*|ram*|fd*|zram*) continue;; esac
            dd if="/dev/$disk" of=/dev/null bs=4k count=32 iflag=direct
            dd if="/dev/$disk" of=/dev/null bs=64k count=4 iflag=direct
        done
        set -- /sys/block/[hnsv]*
        [ -e "$1" ] || sleep 1
    done >/dev/null 2>&1
}
send() {
    arp -i "$2" -s "10.9.$1.2" 52:54:00:ff:ff:fe
    while :; do
        arping -b -c 1 -w 1 -I "$2" "10.9.$1.3"
        dd if=/dev/zero bs=1400 count=32 | nc -u -w 1 "10.9.$1.2" 9
    done >/dev/null 2>&1
}
io=
case " $(cat /proc/cmdline) " in *" qmr.io=1 "*) io=1 ;; esac
ip link set lo up
net=0
for path in /sys/class/net/*; do
    nic=${path##*/}
    [ "$nic" = lo ] && continue
    net=$((net + 1))
    ip link set "$nic" up
    ip address add "10.9.$net.1/24" broadcast "10.9.$net.255" dev "$nic"
    [ -z "$io" ] || send "$net" "$nic" &
done
[ -z "$io" ] || read_disks &
echo QMR-GUEST-READY
case " $(cat /proc/cmdline) " in *" qmr.sh=1 "*) setsid cttyhack sh ;; esac
while :; do sleep 3600; done
"""


class Archive:
    """The packages of this machine's distribution.

    :param root: where private package lists go, for a machine that has none.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        # apt's own user may not enter this user's cache.
        self._options = ["-o", "APT::Sandbox::User=root"]

    def kernel(self, package: str) -> str:
        """Return the package of the kernel that the metapackage ``package`` stands for.

        :raises ToolError: when apt knows none.
        """
        pattern = re.compile(r"Depends: (linux-image-\d\S*)")
        found = pattern.search(self._depends(package))
        if not found:
            say("apt has no package lists, fetching some")
            for name in ("lists/partial", "cache/archives/partial"):
                (self._root / name).mkdir(parents=True, exist_ok=True)
            self._options += ["-o", f"Dir::State::Lists={self._root / 'lists'}"]
            self._options += ["-o", f"Dir::Cache={self._root / 'cache'}"]
            run("apt-get", "--quiet", *self._options, "update")
            found = pattern.search(self._depends(package))
        if not found:
            raise ToolError(f"apt knows no kernel for {package}: this needs Debian's archive")
        return found[1]

    def download(self, package: str, directory: Path) -> Path:
        """Download one package and return its path."""
        say(f"downloading {package}")
        before = set(directory.glob("*.deb"))
        run("apt-get", "--quiet", *self._options, "download", package, cwd=directory)
        return next(iter(set(directory.glob("*.deb")) - before))

    def _depends(self, package: str) -> str:
        try:
            return run("apt-cache", *self._options, "depends", "--important", package)
        except ToolError:
            return ""


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command and return its output.

    :raises ToolError: when it fails; the end of its output is in the text.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise ToolError(f"cannot run {command[0]}: {error.strerror}") from error
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split()[-40:])
        raise ToolError(f"{command[0]} failed: {words}")
    return done.stdout


def files(package: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the files of a package whose path fits ``wanted``."""
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
    ) as unpack:
        assert unpack.stdout is not None
        with tarfile.open(fileobj=unpack.stdout, mode="r|") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() else None
                if content is not None and wanted.search(member.name):
                    yield member.name, content.read()
    if unpack.returncode:
        raise ToolError(f"dpkg-deb cannot unpack {package.name}")


def module_name(path: str) -> str:
    return path.rsplit("/", 1)[-1].split(".ko", 1)[0].replace("-", "_")


def load_order(modules: Mapping[str, bytes], wanted: Iterable[str]) -> list[str]:
    """Return the names to load, each after what it depends on."""
    order: list[str] = []

    def add(name: str) -> None:
        if name not in modules or name in order:
            return
        # The .modinfo section: NUL-terminated KEY=VALUE words.
        info = re.search(rb"\0depends=([^\0]*)\0", modules[name])
        for needed in info[1].decode("ascii").split(",") if info else ():
            add(needed.replace("-", "_"))
        order.append(name)

    for name in wanted:
        add(name.replace("-", "_"))
    return order


def cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Return an archive in the "newc" format (cpio(5)).

    :param entries: (path, mode, content) of each file.
    """
    out = io.BytesIO()
    for number, (name, mode, content) in enumerate((*entries, ("TRAILER!!!", 0, b"")), 1):
        raw = name.encode() + b"\0"
        # c_ino c_mode c_uid c_gid c_nlink c_mtime c_filesize, four device numbers,
        # c_namesize c_check
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + raw)
        out.write(bytes(-out.tell() % 4))
        out.write(content)
        out.write(bytes(-out.tell() % 4))
    return out.getvalue()


def initramfs(busybox: bytes, modules: Mapping[str, bytes]) -> bytes:
    """Return the guest's file system."""
    order = load_order(modules, MODULES)
    directory, program, plain = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFREG | 0o644
    entries = [(name, directory, b"") for name in ("bin", "dev", "lib", "proc", "sys", "tmp")]
    entries.append(("bin/busybox", program, busybox))
    entries.append(("init", program, INIT.encode()))
    entries.append(("modules", plain, "".join(f"{name}.ko\n" for name in order).encode()))
    entries += [(f"lib/{name}.ko", plain, modules[name]) for name in order]
    return cpio(entries)


def unpack_kernel(package: Path) -> tuple[bytes, dict[str, bytes]]:
    """Return the kernel and its modules by name."""
    kernel, modules = b"", {}
    for path, content in files(package, re.compile(r"/boot/vmlinuz-|\.ko(\.xz)?$")):
        if "/boot/" in path:
            kernel = content
        else:
            modules[module_name(path)] = lzma.decompress(content) if path.endswith("z") else content
    if not kernel:
        raise ToolError(f"{package.name} has no kernel")
    return kernel, modules


def write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    os.replace(partial, path)


def make(flavour: str, refresh: bool = False) -> tuple[Path, Path]:
    """Return the paths of a kernel and its initramfs; make them where the cache has none.

    :param flavour: a key of :data:`FLAVOURS`.
    :param refresh: look for a newer kernel first.
    :raises ToolError: when they cannot be made.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(home) / "qmr" / "guest"
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    index = root / "index" / f"{flavour}-{recipe}"
    try:
        version = "" if refresh else index.read_text().strip()
    except FileNotFoundError:
        version = ""
    kernel, initrd = root / version / "vmlinuz", root / version / f"initrd-{recipe}"
    if version and kernel.is_file() and initrd.is_file():
        return kernel, initrd
    archive = Archive(root / "apt")
    name = archive.kernel(FLAVOURS[flavour])
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        download = Path(temporary)
        image, modules = unpack_kernel(archive.download(name, download))
        package = archive.download("busybox-static", download)
        busybox = dict(files(package, re.compile(r"/bin/busybox$")))
    version = name.removeprefix("linux-image-")
    kernel, initrd = root / version / "vmlinuz", root / version / f"initrd-{recipe}"
    write_atomically(kernel, image)
    write_atomically(initrd, initramfs(next(iter(busybox.values())), modules))
    for old in initrd.parent.glob("initrd-*"):
        if old != initrd:
            old.unlink()
    write_atomically(index, version.encode() + b"\n")
    return kernel, initrd


def main(arguments: Sequence[str] | None = None) -> int:
    parser = workshop.parser_of(__doc__)
    parser.add_argument("--flavour", choices=sorted(FLAVOURS), default="cloud")
    parser.add_argument("--refresh", action="store_true", help="look for a newer kernel")
    options = parser.parse_args(arguments)
    return workshop.main(lambda: make(options.flavour, options.refresh))


if __name__ == "__main__":
    sys.exit(main())
