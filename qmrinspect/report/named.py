"""Words for what has a name
-------------------------

A block node, netdev or chardev, and who uses it, in text and in JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..index import Index
from ..text import printable
from . import words

if TYPE_CHECKING:
    from ..search.named import Named, User

__all__ = ["named_json", "named_text"]

_KINDS = {
    "block-node": "block node",
    "block-backend": "block backend",
    "block-export": "block export",
    "job": "job",
    "netdev": "netdev",
    "monitor": "a monitor",
    "variable": "a variable of QEMU",
    "block": "a structure that is no object",
}


def named_json(index: Index, row: Named) -> dict[str, object]:
    """Return what has a name, and who uses it, as answers have it."""
    return {
        "kind": row.kind,
        "name": row.name,
        "address": words.hex_text(row.address),
        "deleted": row.deleted,
        "users": [
            {
                "kind": user.kind,
                "address": words.hex_text(user.address),
                "object": words.object_json(index, user.object) if user.object else None,
                "name": user.name,
                "field": user.field,
            }
            for user in row.users
        ],
        "text": named_text(index, row),
    }


def named_text(index: Index, row: Named) -> str:
    """Return in a sentence who uses what has a name."""
    what = f"{_KINDS.get(row.kind, row.kind)} {printable(row.name)} <{row.address:#x}>"
    if row.kind == "object":
        what = words.name(index, row.address)
    users = ", ".join(_user_text(index, user) for user in row.users)
    if row.deleted:
        return f"{what} was deleted by netdev_del, and is still used by {users}: no leak"
    return f"{what} is used by {users}" if users else f"nothing known uses {what}"


def _user_text(index: Index, user: User) -> str:
    if user.object:
        field = f" ({printable(user.field)})" if user.field else ""
        return words.name(index, user.object) + field
    kind = _KINDS[user.kind]
    if user.name:
        return f"{kind} {printable(user.name)}"
    return kind if user.kind == "monitor" else f"{kind} <{user.address:#x}>"
