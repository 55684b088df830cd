"""What is closed at the end of a ``with``
--------------------------------------
"""

from __future__ import annotations

from typing import TypeVar

__all__ = ["Closing"]

T = TypeVar("T")


class Closing:
    """A context manager that closes itself."""

    def close(self) -> None:
        """Release what it holds; harmless when repeated."""
        raise NotImplementedError

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
