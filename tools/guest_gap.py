#!/usr/bin/env python3
"""The longest gap that a guest sees.

    tools/guest_gap.py [--seconds N] [--accel tcg|kvm]

A guest that is nothing but a boot sector reads its time-stamp counter in a loop, and tells
the longest step when it is asked.  For a minute it runs alone and with ``qmr`` reading the VM
every second, by turns of ten seconds, in one run.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qmrinspect.hotplug.vm import Vm  # noqa: E402
from qmrinspect.reading import Reader  # noqa: E402
from qmrinspect.target.process import Process  # noqa: E402

# start:  cli; xor %ebx,%ebx; rdtsc; mov %eax,%esi
# again:  rdtsc; mov %eax,%ecx; sub %esi,%eax; mov %ecx,%esi
#         cmp %ebx,%eax; jbe 1f; mov %eax,%ebx            the longest step so far
# 1:      in 0x3fd; test $1; jz again                     nobody asks
#         in 0x3f8; mov %esi,%edi; mov $8,%cx
# 2:      in 0x3fd until bit 5 is set; out %bl,0x3f8      %ebx, then %esi, byte by byte
#         shrd $8,%edi,%ebx; shr $8,%edi; loop 2b
#         xor %ebx,%ebx; rdtsc; mov %eax,%esi; jmp again
CODE = bytes.fromhex(
    "fa6631db0f316689c60f316689c16629f06689ce6639d876036689c3bafd03eca80174e5baf803ec6689f7b90800"
    "bafd03eca82074fbbaf80388d8ee660facfb0866c1ef08e2e76631db0f316689c6ebb8"
)
TURN = 10.0
BOOT = 60.0


class Guest:
    """The guest, at the other end of a serial line."""

    def __init__(self, path: Path) -> None:
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(str(path))
        self._line.settimeout(1.0)
        self.hertz = 0.0

    def ask(self) -> tuple[int, int]:
        """Return the longest step since it was asked last, and its counter."""
        self._line.sendall(b"?")
        raw = b""
        while len(raw) < 8:
            raw += self._line.recv(8 - len(raw))
        gap, now = struct.unpack("<II", raw)
        return gap, now

    def boot(self) -> None:
        """Wait until it answers, and find out how fast its counter is."""
        end = time.monotonic() + BOOT
        while True:
            try:
                self.ask()
                break
            except socket.timeout:
                if time.monotonic() > end:
                    raise SystemExit("the guest does not boot") from None
        begin, first = time.perf_counter(), self.ask()[1]
        time.sleep(0.5)
        last, spent = self.ask()[1], time.perf_counter() - begin
        self.hertz = ((last - first) & 0xFFFFFFFF) / spent

    def gap_ms(self) -> float:
        """Return the longest step since it was asked last, in milliseconds."""
        return self.ask()[0] / self.hertz * 1000


def measure(seconds: float, accel: str = "tcg") -> dict[str, list[float]]:
    """Return the longest gap of each second, milliseconds, alone and with qmr."""
    with tempfile.TemporaryDirectory(prefix="qmr-gap-") as place:
        disk = Path(place) / "disk"
        disk.write_bytes(CODE.ljust(510, b"\0") + b"\x55\xaa" + bytes(512 * 2047))
        line = Path(place) / "line"
        extra = ["-drive", f"file={disk},format=raw,if=ide,snapshot=on", "-boot", "strict=on"]
        extra += ["-serial", f"unix:{line},server=on,wait=off"]
        with Vm(machine="pc", accel=accel, extra=extra, stopped=False) as vm:
            guest = Guest(line)
            guest.boot()
            reader = Reader(Process(vm.pid))
            for _ in range(4):
                reader.read()
            out: dict[str, list[float]] = {"alone": [], "with qmr": []}
            end = time.monotonic() + 2 * seconds
            turn = 0
            while time.monotonic() < end:
                name = ("alone", "with qmr")[turn % 2]
                turn += 1
                until = time.monotonic() + TURN
                guest.ask()
                while time.monotonic() < until:
                    begin = time.monotonic()
                    if name == "with qmr":
                        reader.read()
                    time.sleep(max(0.0, begin + 1.0 - time.monotonic()))
                    out[name].append(guest.gap_ms())
    return out


def lines(seconds: float, accel: str) -> list[str]:
    """Return what was measured as text."""
    return [
        f"{accel}, {name}, {len(gaps)} s: in a second, median {statistics.median(gaps):.2f} ms, "
        f"most {max(gaps):.2f} ms"
        for name, gaps in measure(seconds, accel).items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0, help="with qmr, and as many without")
    parser.add_argument("--accel", default="tcg", choices=("tcg", "kvm"))
    args = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}")
    print(*lines(args.seconds, args.accel), sep="\n")


if __name__ == "__main__":
    main()
