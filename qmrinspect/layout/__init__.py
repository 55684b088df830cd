"""Structure layouts
-----------------

Where the fields are.  A :class:`Layout` names for each C structure its size and
the offsets of the fields that qmr reads.  It comes from DWARF (through GDB),
from a cache keyed by build id, or from a profile that ships with the package,
and is validated against the process before anything rests on it.
"""

from .model import Layout, Struct, load, save

__all__ = ["Layout", "Struct", "load", "save"]
