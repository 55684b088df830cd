#!/usr/bin/env python3
"""Write docs/deep-hunts.md from campaigns of several QEMUs.

    tools/make_deep.py CAMPAIGN[@COMMIT[@VERSION]]...

Each campaign is what ``qmr hunt --campaign FILE`` kept, mostly with ``--cycles`` or
``--error-paths``, by the qmr of a commit; QEMU's version is needed where none was read.  A finding
is told once, with the QEMUs that have it, its cause, and the line of QEMU's source that explains it
where it is known here.
"""

from __future__ import annotations

import fnmatch
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from qemu_lines import SOURCES  # noqa: E402

from qmrinspect.campaign.store import Store  # noqa: E402
from qmrinspect.documents import HuntRow  # noqa: E402
from qmrinspect.hunt.rows import is_bad  # noqa: E402

_ADDRESS = re.compile(r" ?<0x[0-9a-f]+>|qmr-no-such(?:/it)?")
_MONITOR = re.compile(r" on the monitor /\S+")
_MODELS = "CPU models"
PAGE = ROOT / "docs" / "deep-hunts.md"


def explained(row: HuntRow) -> str:
    """Return the line of QEMU's source that explains a finding, empty where none is known."""
    for source in SOURCES:
        cause = any(fnmatch.fnmatchcase(c, source.cause) for c in _causes(row) or [""])
        text = row.get("text", "")
        here = any(fnmatch.fnmatchcase(text, way) for way in (source.text, f"*{source.text}"))
        if fnmatch.fnmatchcase(row["device"], source.device) and cause and here:
            return source.where
    return ""


class Campaign(NamedTuple):
    """What one hunt found; ``how`` are its options, ``made`` its date and commit."""

    how: str
    made: str
    rows: Sequence[HuntRow]


def lines(campaigns: Sequence[Campaign]) -> Iterator[str]:
    """Yield the page."""
    found: dict[tuple[str, str, str, str], list[HuntRow]] = {}
    for row in [row for campaign in campaigns for row in campaign.rows]:
        if is_bad(row):
            known = explained(row)
            where = known or cell(_ADDRESS.sub("", row.get("text", "")))
            device = _MODELS if known and row["device"].endswith("-cpu") else row["device"]
            name = (device, row["outcome"], " ".join(_causes(row)), where)
            found.setdefault(name, []).append(row)
    yield "# Findings of deep hunts"
    yield ""
    yield "Made by `tools/make_deep.py` from campaigns; not written by hand. Deep hunts plug each"
    yield "device many times (`--cycles`) and in the ways that make its realize fail"
    yield "(`--error-paths`)."
    yield ""
    yield "| QEMU | hunt | made | devices | findings | clean |"
    yield "|---|---|---|---|---|---|"
    for options, made, rows in campaigns:
        devices = {row["device"] for row in rows if row.get("hotpluggable", True)}
        clean = devices - {row["device"] for row in rows if row["outcome"] != "clean"}
        bad = sum(map(is_bad, rows))
        version = _most(version_of(row) for row in rows)
        yield f"| {version} | `{options}` | {made} | {len(devices)} | {bad} | {len(clean)} |"
    yield ""
    yield "| device | QEMU | outcome | cause | how | explained by |"
    yield "|---|---|---|---|---|---|"
    for (device, outcome, causes, where), alike in sorted(found.items()):
        versions = ", ".join(sorted({version_of(one) for one in alike} - {""}))
        if device == _MODELS:
            models = sorted({one["device"] for one in alike})
            device = f"{len(models)} {device}" if len(models) > 1 else models[0]
        ways = [way for way in (one.get("error_path") for one in alike) if way]
        how = ["plug, unplug"] if len(ways) < len(alike) else []
        if ways:
            first = ways[0]["property"]
            how.append(f"`{first}`: {cell(ways[0]['message'])}")
            others = sorted({way["property"] for way in ways} - {first})
            how += [f"also `{'`, `'.join(others)}`"] if others else []
        yield f"| `{device}` | {versions} | {outcome} | {causes} | {'; '.join(how)} | {where} |"


def _causes(row: HuntRow) -> list[str]:
    return list(row.get("causes") or filter(None, [row.get("cause", "")]))


def version_of(row: HuntRow) -> str:
    return row.get("qemu_version", "").split(" ")[0]


def cell(text: str, most: int = 160) -> str:
    text = " ".join(_MONITOR.sub("", text).split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= most else text[: most - 3] + "..."


def _most(values: Iterable[str]) -> str:
    counts = Counter(value for value in values if value)
    return counts.most_common(1)[0][0] if counts else ""


def read(text: str) -> Campaign:
    """Read a campaign, ``FILE``, ``FILE@COMMIT`` or ``FILE@COMMIT@VERSION``."""
    path, commit, version, *_ = (*text.split("@"), "", "")
    store = Store(path, create=False)
    rows = list(store.rows())
    store.close()
    version = version or _most(row.get("qemu_version", "") for row in rows)
    for row in rows:
        # One that died was not read.
        row["qemu_version"] = row.get("qemu_version") or version
    cycles = max((row["cycle"] for row in rows), default=1)
    deep = any("error_path" in row for row in rows)
    last = max((row["read"].get("at_us", 0) for row in rows if "read" in row), default=0)
    day = time.strftime("%Y-%m-%d", time.gmtime(last / 1e6)) if last else ""
    asked = {"--cycles": cycles > 1, "--error-paths": deep}
    how = " ".join(option for option, given in asked.items() if given) or "hunt"
    return Campaign(how, f"{day} {commit}".strip(), rows)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    PAGE.write_text(
        "\n".join(lines([read(text) for text in sys.argv[1:]])) + "\n", encoding="utf-8"
    )
    print(PAGE)
