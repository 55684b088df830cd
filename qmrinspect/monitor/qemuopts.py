"""Options of a QEMU's command line
--------------------------------

As QEMU takes them apart (util/qemu-option.c, qobject/block-qdict.c).
"""

from __future__ import annotations

import json

__all__ = ["qemu_options"]


def qemu_options(text: str, first: str | None = None) -> dict[str, str]:
    """Split QemuOpts (``k=v,flag,noflag``; a comma in a value is doubled) or JSON.

    :param first: the key of a first part that has none, None where that is no such part.
    """
    if text.startswith("{"):
        try:
            found: dict[str, str] = {}
            _flatten(json.loads(text), found)
            return found
        except ValueError:
            return {}
    options: dict[str, str] = {}
    parts = text.replace(",,", "\0").split(",") if text else []
    for index, part in enumerate(part.replace("\0", ",") for part in parts):
        key, equals, value = part.partition("=")
        if equals:
            options[key] = value
        elif index == 0 and first is not None:
            options[first] = part
        elif part.startswith("no") and part != "nodelay":
            options[part[2:]] = "off"
        else:
            options[part] = "on"
    return options


def _flatten(value: object, found: dict[str, str]) -> None:
    # ChardevBackend nests {"backend": {"type": "socket", "data": {"addr": {"data": ..}}}}.
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key == "backend" and isinstance(item, dict):
            found["backend"] = str(item.get("type", ""))
            _flatten(item.get("data"), found)
        elif isinstance(item, dict):
            _flatten(item, found)
        elif isinstance(item, bool):
            found[key] = "on" if item else "off"
        elif isinstance(item, (str, int)) and key != "type":
            found[key] = str(item)
