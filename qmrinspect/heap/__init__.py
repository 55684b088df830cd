"""Live or freed
-------------

What glibc's malloc knows of QEMU's memory, read from a captured image without symbols:
each block, its size, and whether the program still owns it.
"""

from .chunks import Walked
from .live import Live
from .model import Block, Heap

__all__ = ["Block", "Heap", "Live", "Walked"]
