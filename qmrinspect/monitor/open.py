"""Opening a monitor
-----------------

For every front but GDB, whose Python has no package of ours.
"""

from __future__ import annotations

from ..errors import MonitorError
from .addresses import Address
from .base import GREETING_TIMEOUT, Monitor

__all__ = ["open_monitor"]


def open_monitor(address: str | Address, timeout: float = GREETING_TIMEOUT) -> Monitor:
    """Open a monitor over qemu.qmp, which is imported here: that takes 50 ms.

    :param timeout: seconds for the connection and the greeting.
    :raises MonitorError: it cannot be reached, is held, or is no QMP monitor.
    """
    try:
        from .qmp import QmpMonitor
    except ImportError as error:
        raise MonitorError(
            f"the package qemu.qmp cannot be imported ({error})", "pip install qemu.qmp"
        ) from error
    return QmpMonitor(address, timeout)
