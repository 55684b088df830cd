"""The report
----------

One HTML page that needs no network: what was read, the findings by cause with the references as
pictures and tables, and a row a device.  The pages are templates of Jinja2, which escapes all that
is put into them; so are the pictures.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader

from .. import __version__
from ..hunt.rows import Row, is_bad, key
from ..masking import masked
from ..report import render
from ..text import printable
from .balance_svg import balance_picture
from .forecasts import forecast_section
from .groups import grouped, hunt_findings
from .pictures import reference_graph
from .svg import growth_plot

__all__ = ["moment", "page", "render_page"]

_LOOKS = {"clean": "good", "refused": "", "delayed": "warn", "not-acked": "warn"}
_EVIDENCE = ("README.md", "reproduce.sh", "verdict.json", "command", "transcript.jsonl")
_COMMANDS_MAX = 5
# Each VM of a hunt has a directory of its own, whose name says nothing.
_OWN_DIRECTORY = re.compile(r"/(?:[\w.-]+/)*qmr-\w+/")


def render_page(template: str, **values: object) -> str:
    """Fill a template of ``pages/templates``; what is put in is escaped."""
    pages = Environment(
        loader=PackageLoader("qmrinspect.pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters["shown"] = lambda text, limit=200: printable(str(text), limit)
    pages.filters["look"] = lambda outcome: _LOOKS.get(outcome, "bad")
    pages.globals.update(
        graph=reference_graph,
        plot=growth_plot,
        balance=balance_picture,
        policies=forecast_section,
        plural=render.plural,
        made=f"qmr {__version__}, {moment(time.time_ns() // 1000)}",
    )
    return pages.get_template(template).render(**values)


def moment(at_us: int) -> str:
    """Return a time since 1970 as a date with its zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(at_us / 1e6))


def page(
    title: str,
    rows: Sequence[Row],
    compared: Mapping[str, Sequence[Row]] | None = None,
    place: str | None = None,
) -> str:
    """Return the page of a hunt.

    :param compared: what :func:`~qmrinspect.campaign.store.compare` returned.
    :param place: the directory that the page will be in, None for the current one; links to bundles
        begin there.
    """
    tried = [row for row in rows if row.get("hotpluggable", True)]
    groups = grouped(hunt_findings(row for row in tried if is_bad(row)))
    number = {
        name: (one.number, one.word)
        for group in groups
        for one in group.findings
        for name in one.names
    }
    against = None
    if compared is not None:
        against = [
            (name, [" ".join(key(row)).strip() for row in some]) for name, some in compared.items()
        ]
    return render_page(
        "hunt.html",
        title=title,
        where=_where(tried),
        read=list(_read(tried)),
        counts=sorted(Counter(row["outcome"] for row in tried).items()),
        others=len(rows) - len(tried),
        compared=against,
        groups=groups,
        evidence=lambda bundle: _evidence(bundle, place),
        steady=[row for row in tried if row.get("growth") and not is_bad(row)],
        devices=[
            (row, number[name][0] if is_bad(row) else None, _remark(row))
            for row in tried
            for name in [printable(row["device"])]
        ],
    )


def _remark(row: Row) -> str:
    return row.get("note") or ("" if row["outcome"] in ("clean", "leak") else row["text"])


def _where(rows: Sequence[Row]) -> str:
    seen = list(
        dict.fromkeys(
            (row["machine"], row["qemu_version"], row.get("policy", ""))
            for row in rows
            if row.get("qemu_version") and row.get("policy")
        )
    )
    parts = [
        f"QEMU {version}, {machine}" + (f", policy {policy}" if policy else "")
        for machine, version, policy in seen
    ]
    return printable("; ".join(dict.fromkeys(parts))) or "nothing was hunted"


def _read(rows: Sequence[Row]) -> Iterable[tuple[str, list[str]]]:
    """Yield what was read, as a table of names and values."""
    reads = [row["read"] for row in rows if row.get("read")]
    times = sorted(read["at_us"] for read in reads if read.get("at_us"))
    commands = _distinct(_OWN_DIRECTORY.sub(".../", read.get("command") or "") for read in reads)
    if len(commands) > _COMMANDS_MAX:
        commands[_COMMANDS_MAX:] = [f"and {len(commands) - _COMMANDS_MAX} more"]
    found = {
        "host": _distinct(read.get("host") for read in reads),
        "when": [moment(times[0])] if len(times) == 1 else [],
        "program": _distinct(read.get("exe") for read in reads),
        "QEMU": _distinct(row.get("qemu_version") for row in rows),
        "build id": _distinct(row.get("build_id") for row in rows),
        "machine": _distinct(row.get("machine") for row in rows),
        "policy": _distinct(row.get("policy") for row in rows),
        "pid": _distinct(read.get("pid") for read in reads),
        "command line": [masked(command) for command in commands],
        "read by": [f"qmr {version}" for version in _distinct(read.get("qmr") for read in reads)],
    }
    if len(times) > 1:
        found["when"] = [f"{moment(times[0])} to {moment(times[-1])}"]
    if len(found["pid"]) > _COMMANDS_MAX:
        found["pid"] = [f"{len(found['pid'])} VMs, each with a pid of its own"]
    yield from ((name, values) for name, values in found.items() if values)


def _distinct(values: Iterable[object]) -> list[str]:
    return [printable(str(value), 2000) for value in dict.fromkeys(values) if value]


def _evidence(bundle: str, place: str | None) -> list[tuple[str, str]]:
    """Return the files of a bundle that are there: name, and path from the page."""
    files = [Path(bundle, name) for name in _EVIDENCE] + sorted(Path(bundle).glob("*.jsonl.gz"))
    there = [file for file in files if file.is_file()]
    return [(file.name, os.path.relpath(file, place or ".")) for file in there]
