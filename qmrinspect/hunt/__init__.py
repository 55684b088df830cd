"""The hunt
--------

Plug a device, unplug it, and judge by the memory of the process what remained.
"""

from .cycle import Driver, Hunted, hunt_one
from .judge import Judgement, Left, judge

__all__ = ["Driver", "Hunted", "Judgement", "Left", "hunt_one", "judge"]
