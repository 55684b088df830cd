"""The hunt
--------

Plug a device, unplug it, and judge by the memory of the process what remained.
"""

from .cycle import Driver, Hunt, Hunted, hunt_one
from .drivers import Attached, OwnVm
from .judge import Judgement, Left, judge

__all__ = [
    "Attached",
    "Driver",
    "Hunt",
    "Hunted",
    "Judgement",
    "Left",
    "OwnVm",
    "hunt_one",
    "judge",
]
