"""What a stop reads is true, and leaves no trace in the VM."""

from __future__ import annotations

import pytest
import soak_stop


@pytest.mark.timeout(120)
def test_readings_under_a_storm_of_plugs_are_those_of_their_instant() -> None:
    result = soak_stop.under_storm(5)
    assert not result.different
    assert result.ways["pages"] + result.ways["hot"] + result.ways["whole"] == 5


def test_checks_hunts_and_sessions_that_are_killed_leave_the_vm_running() -> None:
    (line,) = soak_stop.kill(5)
    assert line.startswith("killed")
