"""How fast the REPL is: prompt after the start, and echo of a key under load.

Starts a QEMU and a REPL on it in a pty, and prints a table; asserts nothing.  Usage:
``python tools/bench_repl.py [--keys N] [--starts N]``.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import statistics
import struct
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl

from qmrinspect.hotplug.vm import Vm
from qmrinspect.monitor.plain import PlainMonitor

_ROWS, _COLUMNS = 40, 120
_PATIENCE_S = 20.0
_KEYS = (b"~", b"^", b"@", b"%", b";", b"!")
_CURSOR_ASKED = b"\x1b[6n"


class _Pty:
    """The REPL in a pty, as near to the bytes as it gets."""

    def __init__(self, pid: int, home: str) -> None:
        self.begin = time.perf_counter()
        self.child, self.fd = pty.fork()
        if not self.child:
            os.environ.update(XDG_STATE_HOME=home, XDG_CONFIG_HOME=home, TERM="xterm-256color")
            os.execv(sys.executable, [sys.executable, "-m", "qmrinspect", str(pid), "repl"])
        ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))

    def until(self, pattern: bytes) -> float:
        """Read until a pattern comes, and return the seconds that it took."""
        begin, text = time.perf_counter(), b""
        while time.perf_counter() - begin < _PATIENCE_S:
            if select.select([self.fd], [], [], 0.5)[0]:
                text += os.read(self.fd, 65536)
                if _CURSOR_ASKED in text:
                    os.write(self.fd, b"\x1b[1;1R")
                    text = text.replace(_CURSOR_ASKED, b"")
                if re.search(pattern, text):
                    return time.perf_counter() - begin
        raise SystemExit(f"{pattern!r} did not come; there was {text[-500:]!r}")

    def echo(self, key: bytes) -> float:
        """Press a key, and return the seconds until something shows it."""
        while select.select([self.fd], [], [], 0)[0]:
            os.read(self.fd, 65536)
        os.write(self.fd, key)
        # The letter alone may be part of other output: ask for it before a cursor movement.
        return self.until(re.escape(key) + rb"(?=\x1b|$)")

    def enter(self, line: bytes) -> None:
        os.write(self.fd, line + b"\r")

    def end(self) -> None:
        os.write(self.fd, b"\x15\x04")
        with open(os.devnull, "wb"):
            try:
                while os.read(self.fd, 65536):
                    pass
            except OSError:
                pass
        os.waitpid(self.child, 0)
        os.close(self.fd)


@contextmanager
def _events(address: str) -> Iterator[Callable[[], int]]:
    """Have QEMU announce events as fast as a second client can make it."""
    stop, made = threading.Event(), [0]

    def work() -> None:
        with PlainMonitor(address) as monitor:
            begin = time.monotonic()
            while not stop.is_set():
                monitor.execute("cont")
                monitor.execute("stop")
                made[0] += 2
                # A thousand a second, and no more.
                stop.wait(max(0.0, made[0] / 1000 - (time.monotonic() - begin)))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda: made[0]
    finally:
        stop.set()
        thread.join()


def _row(name: str, seconds: list[float]) -> None:
    ms = sorted(s * 1000 for s in seconds)
    print(
        f"{name:<34} {len(ms):>5} {statistics.median(ms):>8.1f} "
        f"{ms[int(len(ms) * 0.95)]:>8.1f} {ms[-1]:>8.1f}"
    )


def _keys(repl: _Pty, count: int, before: Callable[[], None]) -> list[float]:
    taken = []
    for number in range(count):
        before()
        # Characters that no output has: what is seen of one is its echo.
        taken.append(repl.echo(_KEYS[number % len(_KEYS)]))
        os.write(repl.fd, b"\x7f")
        time.sleep(0.02)
    return taken


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100)
    parser.add_argument("--starts", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        second = os.path.join(home, "second")
        extra = ("-qmp", f"unix:{second},server=on,wait=off", "-name", "bench")
        devices = ("-device", "virtio-net-pci,id=nic0", "-device", "qemu-xhci,id=xhci0")
        with Vm(extra=(*extra, *devices)) as vm:
            print(f"{'milliseconds':<34} {'n':>5} {'median':>8} {'95 %':>8} {'worst':>8}")
            starts = []
            for _ in range(args.starts):
                repl = _Pty(vm.pid, home)
                repl.until(rb"(qmr|bench)>")
                starts.append(time.perf_counter() - repl.begin)
                repl.until(rb"bench>")
                repl.end()
            _row("start to prompt", starts)
            repl = _Pty(vm.pid, home)
            repl.until(rb"prelaunch")
            _row("key, idle", _keys(repl, args.keys, lambda: None))
            repl.enter(b"check")
            repl.until(rb"nothing found")
            _row("key, reading all the time", _busy(repl, args.keys))
            with _events(second) as made:
                begin, first = time.monotonic(), made()
                _row("key, events all the time", _keys(repl, args.keys, lambda: None))
                rate = (made() - first) / (time.monotonic() - begin)
            print(f"({rate:.0f} events a second)")
            repl.end()


def _busy(repl: _Pty, count: int) -> list[float]:
    """Type while one check follows the other."""
    for _ in range(60):
        repl.enter(b"check > /dev/null")
    # All have been accepted when the last one waits for its turn.
    repl.enter(b"zzz")
    repl.until(rb"zzz")
    time.sleep(1.0)
    taken = _keys(repl, count, lambda: None)
    os.write(repl.fd, b"\x03")
    time.sleep(1.0)
    return taken


if __name__ == "__main__":
    main()
