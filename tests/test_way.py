"""Follows the name of a driver through a hunt, and compares its way with the page on it."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import qmrinspect
from qmrinspect.hunt.pool import VmPool
from qmrinspect.hunt.settings import Job, Settings

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
# A room that reads memory knows the types in it, and follows no driver.
ROOMS = re.compile(rf"{re.escape(str(Path(qmrinspect.__file__).parent))}/(hunt|hotplug|audit)/")
DRIVER = "virtio-net-pci"


def bears(value: Any) -> bool:
    """Whether a value is the driver's name, or a record that has it."""
    value = getattr(value, "recipe", value)
    return bool(getattr(value, "driver", value) == DRIVER)


def way() -> list[str]:
    """Return the rooms into which a driver's name is handed, in their order."""
    rooms: list[str] = []

    def follow(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        room = ROOMS.match(code.co_filename) if event == "call" else None
        given = code.co_varnames[: code.co_argcount]
        if room is not None and any(bears(frame.f_locals.get(name)) for name in given):
            rooms.append(room[1])

    with VmPool(Settings(start_options=())) as pool:
        sys.setprofile(follow)
        try:
            (row,) = pool.do(Job(DRIVER))
        finally:
            sys.setprofile(None)
    assert row["outcome"] == "clean"
    return [room for room, _ in groupby(rooms)]


def test_a_driver_goes_the_way_that_the_page_shows() -> None:
    block = PAGE.read_text().partition("follows one:\n\n")[2].partition("\n\n")[0]
    assert way() == re.findall(r"^    (\w+) ", block, re.MULTILINE)
