"""``libvirt:DOMAIN`` on a real libvirtd with a real domain.

The daemon is one of our own, without privileges and with all its files in a temporary
directory, so that it meets no other.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import Terminal

_PATIENCE_S = 20.0

_DOMAIN = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>qmr-domain</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""


class Libvirt:
    """A libvirtd with one domain that runs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.socket = directory / "run" / "libvirt" / "libvirt-sock"
        self.env = {
            **os.environ,
            "HOME": str(directory),
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "XDG_CONFIG_HOME": str(directory / "config"),
            "XDG_CACHE_HOME": str(directory / "cache"),
            "XDG_DATA_HOME": str(directory / "data"),
            "LIBVIRT_DEFAULT_URI": f"qemu:///session?socket={self.socket}",
        }
        for name in ("run", "config/libvirt", "cache", "data"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        settings = 'stdio_handler = "file"\nsecurity_driver = "none"\nremember_owner = 0\n'
        (directory / "config" / "libvirt" / "qemu.conf").write_text(settings)
        self._log = (directory / "log").open("wb")
        command = ["libvirtd", "--timeout", "0"]
        if os.geteuid() == 0:
            # libvirtd run by root is the one of the whole machine.
            nobody = pwd.getpwnam("nobody")
            for path in (directory, *directory.rglob("*")):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            ids = (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
            command = ["setpriv", *ids, *command]
        program = shutil.which("libvirtd") or "/usr/sbin/libvirtd"
        command = [program if word == "libvirtd" else word for word in command]
        self._daemon = subprocess.Popen(
            command, env=self.env, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL
        )
        domain = directory / "domain.xml"
        domain.write_text(_DOMAIN)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            started = self.virsh("create", domain)
            if not started.returncode:
                return
            if time.monotonic() > deadline or self._daemon.poll() is not None:
                self.close()
                log = (directory / "log").read_text()
                raise AssertionError(f"libvirt starts no domain: {started.stderr}\n{log}")

    def virsh(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run virsh against this daemon."""
        return subprocess.run(
            ["virsh", *map(str, words)],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )

    def close(self) -> None:
        """End the domain and the daemon."""
        if self._daemon.poll() is None:
            self.virsh("destroy", "qmr-domain")
        self._daemon.kill()
        self._daemon.wait()
        self._log.close()


@pytest.fixture
def libvirt() -> Iterator[Libvirt]:
    # A socket's path must not be long, and pytest's directories are root's.
    with tempfile.TemporaryDirectory(prefix="qmr-libvirt-", dir="/tmp") as name:
        os.chmod(name, 0o755)
        daemon = Libvirt(Path(name))
        try:
            yield daemon
        finally:
            daemon.close()


def _qmr(libvirt: Libvirt, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qmrinspect", "libvirt:qmr-domain", *words],
        env=libvirt.env,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_a_domain_is_read_and_driven_through_libvirt(libvirt: Libvirt) -> None:
    report = json.loads(_qmr(libvirt, "check", "--json").stdout)
    assert report["refs_explained"] >= 0.95 * report["refs_observed"]
    assert "running" in _qmr(libvirt, "hmp", "info status").stdout
    refused = _qmr(libvirt, "qmp", "device_del", "id=nosuch")
    assert refused.returncode == 2 and "not found" in refused.stderr
    _qmr(libvirt, "plug", "intel-hda", "id=h")
    left = _qmr(libvirt, "unplug", "h", "--json")
    found = json.loads(left.stdout)
    assert (left.returncode, found["cause"]) == (1, "same-owner-subregions")
    # libvirt holds the monitor all the while, and knows its domain.
    assert "running" in libvirt.virsh("domstate", "qmr-domain").stdout


def test_the_repl_gets_events_through_libvirt(libvirt: Libvirt, tmp_path: Path) -> None:
    with Terminal("libvirt:qmr-domain", "repl", home=tmp_path, env=libvirt.env) as terminal:
        terminal.wait(lambda t: "running" in t.bar, "the run state")
        libvirt.virsh("suspend", "qmr-domain")
        terminal.wait(lambda t: "paused" in t.bar and "STOP" in t.text, "the event")
        terminal.enter("plug virtio-rng-pci id=r1")
        terminal.wait("r1 (virtio-rng-pci) is plugged")
        terminal.enter("unplug r1")
        terminal.wait(lambda t: bool(re.search("DEVICE_DELETED.*r1", t.text)), "the event")
        libvirt.virsh("destroy", "qmr-domain")
        terminal.wait("has ended")
        terminal.type("\x04")
        assert terminal.ended() == 0


def test_a_domain_that_is_not_there(libvirt: Libvirt) -> None:
    words = [sys.executable, "-m", "qmrinspect", "libvirt:nobody", "check"]
    ran = subprocess.run(words, env=libvirt.env, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "libvirt has no domain nobody: these run: qmr-domain" in ran.stderr
