#!/usr/bin/env python3
"""Put forecasts beside facts, on QEMUs of every policy, and write docs/agreement.md.

Hunts everything that plugs and unplugs on builds of QEMU 10.0 for each policy and on newer
ones, each device held by a link for a reading: what one build foretells of another, and what
that one does.

    tools/agreement.py                        all devices on pc and q35; takes an hour
    tools/agreement.py --machine pc nvme      some, to look at
    tools/agreement.py --rows FILE            write the page from rows that are there
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qmrinspect.audit.agreement import Agreement, agreement  # noqa: E402
from qmrinspect.documents import HuntRow  # noqa: E402

PATH = ROOT / "docs" / "agreement.md"

# Arguments of tools/build_qemu.py; its subregion-ref-v7 is no rule, and dies of every unplug.
BUILDS = (
    *(("10.0", "--policy", name) for name in ("strict", "owner-ref", "no-ref")),
    ("10.0", "--policy", "subregion-ref"),
    ("10.0", "--policy", "owner-shared"),
    ("10.2",),
    ("11.1",),
)


# Where the versions' own code differs, not the policies: device to QEMU's source.
_XHCI = (
    "usb_xhci_pci_exit() in hw/usb/hcd-xhci-pci.c clears the core's strong link to it in 10.0.13 "
    "and 11.1.1, and not in 10.2.2"
)
_SERIAL = (
    "since 10.2 its irqs are its children, by qemu_init_irq_child() in hw/char/serial-pci-multi.c; "
    "before, qemu_init_irq() gave them a reference that nobody drops"
)
EXPLAINED = {
    "nec-usb-xhci": _XHCI,
    "qemu-xhci": _XHCI,
    "pci-serial-2x": _SERIAL,
    "pci-serial-4x": _SERIAL,
}


def build(words: Sequence[str]) -> str:
    """Return the program of a build."""
    command = ["/usr/bin/python3", str(ROOT / "tools" / "build_qemu.py"), *words]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def hunt(machine: str, programs: Sequence[str], drivers: Sequence[str]) -> Iterator[HuntRow]:
    """Yield the rows of a hunt on all builds; a machine has one name, whatever its version."""
    command = [sys.executable, "-m", "qmrinspect", "hunt", *drivers, "--policies", "--json"]
    command += ["--builds", ",".join(programs), "--machine", machine]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            row: HuntRow = json.loads(line)
            if "device" in row:
                row["machine"] = machine
                yield row


def lines(rows: Sequence[HuntRow], commit: str) -> Iterator[str]:
    """Yield the page."""
    yield "# Forecast beside fact"
    yield ""
    yield f"Made by `make soak` (`tools/agreement.py`) on {datetime.date.today()}, commit {commit}."
    yield ""
    yield "Each device that plugs and unplugs was hunted on each build. A row is the build on which"
    yield "it was foretold what the build of the column does; a cell how many of the forecasts were"
    yield "right, of all: outcome, cause and, where QEMU died, function and expression of the"
    yield "assertion. `pinned`: from a reading between unplug and end, while a link held the"
    yield "device; `after`: from what was left of a device that leaked. A `stale` device was"
    yield "finalized, as `clean` foretells; that it left a callback is no policy's doing."
    for machine in sorted({row["machine"] for row in rows}):
        here = [row for row in rows if row["machine"] == machine]
        found = agreement(here)
        yield ""
        yield f"## {machine}"
        yield ""
        yield "| build | policy, by what it did | cycles | outcomes | right of what was sure |"
        yield "|---|---|---|---|---|"
        for name in found.builds:
            yield _summary(found, name, [row for row in here if row["build"] == name])
        for source in ("pinned", "after"):
            yield from _table(found, source)
        yield from _wrong(found)


def _summary(found: Agreement, name: str, rows: Sequence[HuntRow]) -> str:
    words = [row["outcome"] for row in rows]
    counts = ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words)))
    sure = found.sure[name]
    policies = " or ".join(f"`{policy}`" for policy in found.policies[name])
    return f"| {name} | {policies} | {len(rows)} | {counts} | {sure.right} of {sure.total} |"


def _table(found: Agreement, source: str) -> Iterator[str]:
    yield ""
    yield f"From `{source}`:"
    yield ""
    yield f"| foretold on, of | {' | '.join(found.builds)} |"
    yield "|---" * (len(found.builds) + 1) + "|"
    for here in found.builds:
        cells = [found.cells.get((source, here, there)) for there in found.builds]
        if any(cells):
            texts = [f"{cell.right}/{cell.total}" if cell else "" for cell in cells]
            yield f"| {here} | {' | '.join(texts)} |"


def _wrong(found: Agreement) -> Iterator[str]:
    cells = [*found.cells.values(), *found.sure.values()]
    wrong = Counter(text for cell in cells for text in cell.wrong)
    if wrong:
        yield ""
        yield "Where they differ, and why:"
        yield ""
        for text, times in sorted(wrong.items()):
            reason = EXPLAINED.get(text.split(": ")[0])
            yield f"- {times} x {text.strip()}" + (f" ({reason})" if reason else "")


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("driver", nargs="*")
    parser.add_argument("--machine", action="append", help="default: pc and q35")
    parser.add_argument("--rows", type=Path, help="JSON Lines of an earlier run")
    parser.add_argument("--keep", type=Path, help="write the rows there as well")
    options = parser.parse_args()
    if options.rows:
        found = [json.loads(line) for line in options.rows.read_text().splitlines()]
        rows = [row for row in found if "device" in row]
    else:
        programs = [build(words) for words in BUILDS]
        rows = []
        for machine in options.machine or ("pc", "q35"):
            for row in hunt(machine, programs, options.driver):
                rows.append(row)
                if options.keep:
                    with options.keep.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    PATH.write_text("\n".join(lines(rows, commit)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
