"""The examples run, and say what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
from conftest import Qmr

ROOT = Path(__file__).resolve().parent.parent


def _run(driver: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "examples" / "what_remained.py")
    return subprocess.run(
        [sys.executable, script, driver], capture_output=True, text=True, check=False
    )


def test_a_leak_is_named_with_its_subregions() -> None:
    done = _run("bochs-display")
    assert done.returncode == 1, done.stderr
    assert "DEVICE_DELETED came: no" in done.stdout
    assert "still alive, with 3 references" in done.stdout
    for name in ("bochs dispi interface", "qemu extended regs", "edid"):
        assert f'subregions "{name}"' in done.stdout


def test_a_clean_device_leaves_nothing() -> None:
    done = _run("e1000e")
    assert done.returncode == 0, done.stderr
    assert "nothing remained" in done.stdout


def _plain(text: str) -> str:
    """Return text without line breaks, addresses and numbers of devices."""
    return re.sub(r"\s+", " ", re.sub(r"0x[0-9a-f]+|(?<=dut)\d+", "", text))


@pytest.mark.timeout(120)
def test_the_first_find_of_the_readme(qmr: Qmr) -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("    $ qmr "))
    block = list(takewhile(bool, lines[first:]))
    # The row of a device, and below it what was found.
    shown = re.split(r"\n    (?=\S)", "\n".join(block[1:]))
    assert len(shown) == 3
    done = qmr(*block[0].split()[2:])
    assert done.code == 1
    out = _plain(done.out)
    for found in shown:
        row, text = found.split("\n", 1)
        assert _plain(row).strip() in out
        assert _plain(text).endswith(", never dropped") and _plain(text) in out


def test_the_ledgers_page_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "tools" / "make_docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
