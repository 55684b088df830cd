"""The walk
--------

From bytes and a layout to a :class:`~qmrinspect.snapshot.Snapshot`.  The memory
is captured once; everything here decodes that capture.  What cannot be read, or
makes no sense, becomes a note in the snapshot and ends nothing else.
"""

from .take import Program, capture, chooser, decode, program_of, settled, take, version_of

__all__ = ["Program", "capture", "chooser", "decode", "program_of", "settled", "take", "version_of"]
