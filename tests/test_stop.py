"""What a stop reads is true, and leaves no trace in the VM."""

from __future__ import annotations

import subprocess
from pathlib import Path

import killed
import pytest
import soak_stop

from qmrinspect.hotplug.vm import Vm
from qmrinspect.reading import Reader
from qmrinspect.target.process import Process


@pytest.mark.timeout(180)
def test_readings_under_a_storm_of_plugs_are_those_of_their_instant() -> None:
    result = soak_stop.under_storm(3)
    assert not result.different
    assert result.ways["pages"] + result.ways["hot"] + result.ways["whole"] == 3


def test_checks_hunts_and_sessions_that_are_killed_leave_the_vm_running() -> None:
    (line,) = killed.kill(5, 60.0)
    assert line.startswith("- killed")


GROW = """
#include <stdlib.h>
#include <string.h>
__attribute__((constructor)) static void grow(void)
{
    char *blocks[400];
    for (int i = 0; i < 400; i++)
        memset(blocks[i] = malloc(104858), 0x5a, 104858);
    for (int i = 0; i < 400; i += 2)
        if (i % 20)
            free(blocks[i]);
    memset(malloc(64 << 20), 0x5a, 64 << 20);
    malloc(1 << 30);
}
"""


def test_memory_that_holds_no_structures_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, library = tmp_path / "grow.c", tmp_path / "grow.so"
    source.write_text(GROW)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    with Vm() as plain:
        size = Reader(Process(plain.pid)).read().capture.bytes
    monkeypatch.setenv("LD_PRELOAD", str(library))
    with Vm() as vm:
        monkeypatch.delenv("LD_PRELOAD")
        before = resident(vm.pid)
        reader = Reader(Process(vm.pid))
        reader.read()
        capture = reader.read().capture
        assert before > 90 << 20
        assert capture.bytes < size + (26 << 20)
        assert capture.way in ("pages", "hot")
        # Nothing of the gigabyte that was never touched is there now.
        assert resident(vm.pid) < before + (8 << 20)


def resident(pid: int) -> int:
    """Return how much of a process's memory is there, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
