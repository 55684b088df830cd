"""Named tuples
------------

``typing.NamedTuple`` compiles each annotation that is a text, as all here are, which takes three
times as long as all else.  What a check imports does without.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING

__all__ = ["NamedTuple"]

if TYPE_CHECKING:
    from typing import NamedTuple
else:

    class _Made(type):
        """Makes a tuple of what is declared; the annotations stay texts."""

        def __new__(cls, name, bases, members):
            if not bases:
                return super().__new__(cls, name, bases, members)
            fields = members["__annotations__"]
            defaults = [members.pop(field) for field in fields if field in members]
            made = namedtuple(name, fields, defaults=defaults, module=members.pop("__module__"))
            for key, value in members.items():
                setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_Made):
        """As ``typing.NamedTuple``."""
