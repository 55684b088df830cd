#!/usr/bin/env python3
"""Write qmrinspect/audit/known.json, what hunts on QEMUs found, from what they printed.

qmr hunt --json --qemu QEMU --machine MACHINE >FILE      for each QEMU
tools/make_known.py FILE...                               from these alone
tools/make_known.py --add FILE...                         and what was known before
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qmrinspect.audit.known import AGAIN, CPUS, DATA  # noqa: E402
from qmrinspect.audit.outcome import ALL_FINALIZED, Outcome  # noqa: E402


def known(
    hunts: Sequence[Sequence[Mapping[str, Any]]], before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return, by policy, the device types by what came of them, and what was hunted.

    A type that did well on one QEMU and not on another counts as what is worse.

    :param before: what this returned for other hunts.
    """
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    hunted: list[list[Any]] = [*(before or {}).get("hunts", ())]
    for policy, types in (before or {}).get("found", {}).items():
        for key, names in types.items():
            for name in names.split():
                found[policy][name].update(word for word in key.split(", ") if word)
    for rows in hunts:
        policy = next(row["policy"] for row in rows if row.get("policy"))
        first = next(row for row in rows if row.get("policy") and row["device"] != "summary")
        judged = set()
        for row in rows:
            words = _words(row)
            if words is not None:
                judged.add(row["device"])
                name = CPUS if row["device"].endswith("-cpu") else row["device"]
                found[policy][name].update(words)
        version = first["qemu_version"].split()[0]
        hunted.append([version, first["machine"], policy, len(judged)])
    return {
        "hunts": sorted(hunted),
        "found": {policy: _by_cause(types) for policy, types in sorted(found.items())},
    }


def _words(row: Mapping[str, Any]) -> Iterable[str] | None:
    """Return what came of a device: its causes, a crash, nothing bad; None: it was not judged."""
    outcome = row.get("outcome")
    if outcome in ALL_FINALIZED:
        return ()
    if outcome == Outcome.CRASH:
        # Somebody ended it from outside.
        if not row["text"].startswith("killed by"):
            return None
        return ("crash" if row["cycle"] == 1 else AGAIN,)
    if outcome not in (Outcome.LEAK, Outcome.PARTIAL_LEAK):
        return None
    return [cause for cause in row["causes"] if cause != "delayed"]


def _by_cause(types: Mapping[str, set[str]]) -> dict[str, str]:
    out = defaultdict(list)
    for name, words in sorted(types.items()):
        key = "crash" if "crash" in words else ", ".join(sorted(words))
        out[key].append(name)
    return {key: " ".join(names) for key, names in sorted(out.items())}


def main() -> int:
    hunts = []
    add = sys.argv[1:2] == ["--add"]
    for name in sys.argv[1 + add :]:
        rows = [json.loads(line) for line in Path(name).read_text().splitlines()]
        hunts.append([row for row in rows if "device" in row])
    if not hunts:
        print(__doc__, file=sys.stderr)
        return 2
    before = json.loads(DATA.read_text()) if add else None
    DATA.write_text(json.dumps(known(hunts, before), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
