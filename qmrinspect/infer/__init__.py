"""Inferred layouts
----------------

A layout for a stripped QEMU that no profile fits, from the process itself.

The part of QOM that never changed leads to the types, their properties and their
migration tables, which name offsets in instances; profiles of other QEMUs have the same
names at other offsets, and tell what lies between.  Exported functions, and the values in
live structures, tell more.  Every field carries what speaks for it; what nothing speaks for
is left out, and so are the kinds of references that need it.
"""

from .cache import recall, remember
from .layout import infer, open_questions, references

__all__ = ["infer", "open_questions", "recall", "references", "remember"]
