"""What was inferred before
------------------------

An inferred layout is as good as what lived when it was made.  It is kept by build id, with
the evidence of each field and the types that had instances, and completed when more has
been seen.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from ..errors import LayoutError
from ..layout import Layout
from ..layout.find import cache_path
from ..layout.gdbchild import User
from ..layout.model import from_json, to_json, write_json

__all__ = ["Remembered", "recall", "remember"]


class Remembered(NamedTuple):
    """An inferred layout, and the QOM types that had instances when it was made."""

    layout: Layout
    met: frozenset[str]


def _path(build_id: str, user: User) -> Path:
    path = cache_path(build_id, user)
    return path.with_name(f"{path.stem}.inferred.json")


def recall(build_id: str, user: User) -> Remembered | None:
    """Return what was inferred for a build, None when nothing was.

    :param user: whose program it is.
    """
    path = _path(build_id, user)
    try:
        data = json.loads(path.read_text()) if build_id else None
        if not data:
            return None
        return Remembered(from_json(data, "inferred"), frozenset(map(str, data["met"])))
    except OSError:
        return None
    except (LayoutError, ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        return None


def remember(layout: Layout, met: Collection[str], user: User) -> None:
    """Keep an inferred layout; a cache that cannot be written is none.

    :param met: the types that have instances.
    :param user: whose program it is.
    """
    if not layout.build_id:
        return
    with contextlib.suppress(OSError):
        path = _path(layout.build_id, user)
        write_json(path, {**to_json(layout), "met": sorted(met)})
