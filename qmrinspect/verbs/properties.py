"""The properties of a device
--------------------------

What ``plug DRIVER help`` lists, and arguments that are given as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from ..campaign.candidates import no_device
from ..errors import UsageError
from ..hotplug.unplug import drivers
from ..monitor.arguments import ask_properties
from ..monitor.base import Monitor
from ..report import render
from ..text import printable
from .verb import Answer

__all__ = ["json_arguments", "known_driver", "plug_help"]


def plug_help(monitor: Monitor, name: str) -> Answer:
    """List the properties of a device.

    :raises UsageError: there is no such device.
    """
    known_driver(name, drivers(monitor))
    found = sorted(ask_properties(monitor, name, True).values(), key=lambda prop: prop.name)
    rows = [
        render.Row((prop.name, printable(prop.type), printable(prop.description or "")))
        for prop in found
    ]
    data = {
        "format": "qmr-plug-help/1",
        "device": name,
        "properties": [
            {
                "name": p.name,
                "type": p.type,
                "description": p.description or "",
                "default": p.default,
            }
            for p in found
        ],
    }
    count = render.plural(len(found), "property", "properties")
    return Answer(data, [f"plug {name} takes {count}:", *render.table((), rows)])


def known_driver(name: str, known: Collection[str]) -> None:
    """See that a device is one of those that there are.

    :raises UsageError: it is none.
    """
    if name not in known:
        raise no_device(name, known)


def json_arguments(text: str) -> dict[str, Any]:
    """Read arguments that are given as JSON.

    :raises UsageError: they are none.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UsageError(f"this is no JSON: {error}", 'NAME {"KEY": VALUE, ...}') from None
    if not isinstance(found, dict):
        raise UsageError("arguments are a JSON object", 'NAME {"KEY": VALUE, ...}')
    return found
