"""Error paths: how what stays of ways to fail is found, without a QEMU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qmrinspect.hotplug.kinds import Recipe
from qmrinspect.hotplug.unplug import Cycle
from qmrinspect.hunt.errorpaths import ErrorPaths
from qmrinspect.search.memory import CYCLES

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "counts, readings",
    [((9, 9), 1), ((9, 10), CYCLES + 1), ((9, 11), CYCLES + 1), ((0, 9), CYCLES + 1)],
)
def test_ways_after_which_no_block_is_left_are_read_once(
    counts: tuple[int, int], readings: int
) -> None:
    """One block may have gone; where the blocks are not known, each time is read."""
    read: list[int] = []
    left = iter(counts)
    vm: Any = SimpleNamespace(
        count=lambda: next(left), read=lambda: read.append(1), blocks=lambda _: None
    )
    paths = ErrorPaths(Recipe("some-pci", "PCI"), "pc", lambda: vm, lambda: vm)
    tried: list[object] = []
    paths._attempt = lambda vm, trial: tried.append(trial) or Cycle("some-pci")  # type: ignore
    way: Any = object()
    assert paths._memory(vm, [way]) is None
    assert len(read) == readings
    assert len(tried) == readings + 1
