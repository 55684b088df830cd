"""The examples run, and say what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_the_ledgers_page_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "tools" / "make_docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
