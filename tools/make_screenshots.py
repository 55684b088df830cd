#!/usr/bin/env python3
"""Make the screenshots of docs/img: what ``qmr report`` writes, as Chromium shows it.

Hunts some devices on the QEMU in PATH, checks a snapshot that the tests have, and takes each
page at 1280 and 400 pixels, light and dark.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOT = ROOT / "tests" / "golden" / "stock-7.2-unplugged.jsonl.gz"
HUNTED = "intel-hda bochs-display piix3-usb-uhci qxl rocker edu virtio-net-pci e1000e".split()
MODELS = "486-x86_64-cpu qemu64-x86_64-cpu EPYC-x86_64-cpu".split()
SIZES = ((1280, 900), (400, 900))
SCHEMES = {"light": 1, "dark": 0}


def qmr(*words: str) -> None:
    """Run qmr; findings are what is wanted."""
    command = [sys.executable, "-m", "qmrinspect", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 1):
        sys.exit(done.returncode)


def shoot(page: Path, picture: Path, size: Sequence[int], scheme: int) -> None:
    """Have Chromium take a picture of a page."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *("--disable-dev-shm-usage", f"--user-data-dir={profile}"),
                f"--blink-settings=preferredColorScheme={scheme}",
                f"--window-size={size[0]},{size[1]}",
                f"--screenshot={picture}",
                page.as_uri(),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )


def pages(place: Path) -> dict[str, Path]:
    """Make the pages in a directory, and return them by name."""
    made = {name: place / f"{name}.html" for name in ("check", "hunt")}
    qmr("--snapshot", str(SNAPSHOT), "report", "-o", str(made["check"]))
    campaign = str(place / "hunt.sqlite")
    bundles = ("--campaign", campaign, "--bundle", str(place / "bundles"))
    qmr("hunt", *HUNTED, *MODELS, "--jobs", "2", *bundles)
    qmr("report", campaign, "--title", "qmr hunt", "-o", str(made["hunt"]))
    return made


def main() -> int:
    """Make them all."""
    out = ROOT / "docs" / "img"
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        for name, page in pages(Path(place)).items():
            for size in SIZES:
                for scheme, number in SCHEMES.items():
                    shoot(page, out / f"{name}-{size[0]}-{scheme}.png", size, number)
    return 0


if __name__ == "__main__":
    sys.exit(main())
