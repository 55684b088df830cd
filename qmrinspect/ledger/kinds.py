"""All kinds of references
-----------------------

Adding a kind takes a piece in one of the modules below and a line here.
"""

from __future__ import annotations

from . import fields, initial, memory, qdev, qom, rcu

__all__ = ["KINDS", "RULES"]

KINDS = (*qom.KINDS, *qdev.KINDS, *memory.KINDS, *rcu.KINDS, *initial.KINDS, *fields.KINDS)

RULES = {rule.name: rule for rule in initial.RULES}
