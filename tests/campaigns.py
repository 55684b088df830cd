"""A small campaign that many tests look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qmrinspect.campaign.jobs import Plan
from qmrinspect.hunt.settings import Job, Settings

ROOT = Path(__file__).resolve().parent.parent

SOME = ("usb-kbd", "intel-hda", "virtio-net-pci", "rocker", "edu", "usb-tablet")
PLAN = Plan(Settings(start_options=("usb-bus",)), [Job(name) for name in SOME])


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def verdicts(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {row["device"]: row["outcome"] for row in rows if "device" in row}


EXPECTED = {
    "usb-kbd": "clean",
    "intel-hda": "leak",
    "virtio-net-pci": "clean",
    "rocker": "crash",
    "edu": "clean",
    "usb-tablet": "clean",
}


def found(device: str, outcome: str = "leak", *causes: str) -> dict[str, Any]:
    return {"device": device, "outcome": outcome, "causes": list(causes), "cycle": 1}
