"""What the QMP client costs a hunt: qemu.qmp beside the plain one, in one run.

Two pools do the same jobs by turns, one with each client, and a table comes of it;
asserts nothing.  Usage: ``python tools/bench_monitor.py [--rounds N] [--qemu PROGRAM]
[DRIVER...]``; without drivers, all that the QEMU can plug.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack

from qmrinspect.campaign.jobs import plan
from qmrinspect.hunt import own_vm
from qmrinspect.hunt.pool import VmPool
from qmrinspect.hunt.settings import Job, Settings
from qmrinspect.monitor.addresses import Address
from qmrinspect.monitor.base import GREETING_TIMEOUT, Arguments
from qmrinspect.monitor.plain import PlainMonitor
from qmrinspect.monitor.recording import RecordingMonitor

_CLIENTS = ("plain", "qemu.qmp")


class _RecordingPlain(PlainMonitor):
    """The plain client with the same transcript."""

    def __init__(self, address: str | Address, timeout: float = GREETING_TIMEOUT) -> None:
        self.transcript: list[dict[str, object]] = []
        super().__init__(address, timeout)

    def forget(self) -> None:
        self.transcript.clear()

    def _exchange(
        self, command: str, arguments: Arguments, timeout: float, descriptor: int | None = None
    ) -> object:
        self.transcript.append({"execute": command, "arguments": dict(arguments or {})})
        answer = super()._exchange(command, arguments, timeout, descriptor)
        self.transcript.append({"return": answer})
        return answer


_KINDS = {"plain": _RecordingPlain, "qemu.qmp": RecordingMonitor}


def measure(settings: Settings, jobs: Sequence[Job], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round by client, VMs and their starts included."""
    times: dict[str, list[float]] = {name: [] for name in _CLIENTS}
    # The first round imports and finds the layout, and does not count.
    for number in range(-1, rounds):
        some = jobs if number >= 0 else jobs[:1]
        spent = dict.fromkeys(_CLIENTS, 0.0)
        outcomes: dict[str, list[str]] = {name: [] for name in _CLIENTS}
        with ExitStack() as stack:
            pools = {name: stack.enter_context(VmPool(settings)) for name in _CLIENTS}
            for turn, job in enumerate(some):
                # Who comes second finds QEMU's file in the cache: they take turns in that.
                for name in _CLIENTS[:: 1 if (number + turn) % 2 else -1]:
                    vars(own_vm)["RecordingMonitor"] = _KINDS[name]
                    begin = time.perf_counter()
                    rows = list(pools[name].do(job))
                    spent[name] += time.perf_counter() - begin
                    outcomes[name].append(rows[-1]["outcome"])
        assert outcomes["plain"] == outcomes["qemu.qmp"], "both find the same"
        for name in _CLIENTS if number >= 0 else ():
            times[name].append(spent[name])
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("driver", nargs="*")
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    planned = plan(Settings(args.qemu), args.driver)
    times = measure(planned.settings, planned.jobs, args.rounds)
    ratios = [own / plain for own, plain in zip(times["qemu.qmp"], times["plain"])]
    print(f"{args.qemu}, {len(planned.jobs)} jobs, {args.rounds} rounds, seconds, medians")
    for name in _CLIENTS:
        low, high = min(times[name]), max(times[name])
        print(f"  {name:<10}{statistics.median(times[name]):8.2f}  ({low:.2f} to {high:.2f})")
    more = (statistics.median(ratios) - 1) * 100
    spread = f"{(min(ratios) - 1) * 100:+.1f} to {(max(ratios) - 1) * 100:+.1f}"
    print(f"  qemu.qmp takes {more:+.1f} % of the time more ({spread} by round)")


if __name__ == "__main__":
    main()
