"""Evidence
--------

What a developer takes away of a finding: the command line, what went over the
monitor, the snapshots before, with and after the device, the verdict, and a script
that reproduces it with QEMU alone.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..documents import HuntRow
from ..errors import TargetError
from ..masking import masked_message, masked_words
from ..outfile import write
from ..peers.peer import DIRECTORY_PREFIX
from ..store import save
from .hunted import Hunted
from .settings import Job, Settings

__all__ = ["FORMAT", "read_bundle", "write_bundle"]

FORMAT = "qmr-bundle/1"

_SNAPSHOTS = ("before", "plugged", "after")

# What qmr asks to know where things stand, and the guest's part needs no more of.
_QUESTIONS = ("qom-list", "qom-get", "query-", "qmp_capabilities", "qom-list-types")


# The path of a peer's directory.
_DIRECTORY = re.compile(rf"/[^\"]*?/{DIRECTORY_PREFIX}\w+")

_NOT_ALONE = "echo 'QEMU alone may not do: behind it was {}; see qmr replay' >&2"


def write_bundle(directory: str, settings: Settings, job: Job, hunted: Hunted, row: HuntRow) -> str:
    """Write the bundle of one finding and return its directory.

    :param row: of it, and ``hunted`` what it was made of.
    :raises TargetError: it cannot be written.
    """
    argv, transcript = masked_words(hunted.argv), [masked_message(m) for m in hunted.transcript]
    way = row.get("error_path")
    parts = [row["device"], row["outcome"], *([way["property"]] if way else ())]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(parts))
    place = Path(directory) / name
    settings = settings._replace(bundle=None)
    verdict = {"bundle": FORMAT, "settings": settings.json(), "job": job.json(), "row": row}
    behind = [backend.peer for backend in hunted.recipe.backends if backend.peer is not None]
    files = {
        "verdict.json": json.dumps(verdict, indent=1) + "\n",
        "command": shlex.join(argv) + "\n",
        "README.md": _readme(row),
        "transcript.jsonl": "".join(json.dumps(message) + "\n" for message in transcript),
        "reproduce.sh": _script(row, argv, transcript, behind),
    }
    try:
        place.mkdir(0o700, parents=True, exist_ok=True)
        for file, content in files.items():
            write(place / file, content)
        (place / "reproduce.sh").chmod(0o700)
    except OSError as error:
        raise TargetError(f"{place} cannot be written: {error.strerror}") from None
    for book, which in zip(hunted.books, _SNAPSHOTS):
        save(book.index.snapshot, place / f"{which}.jsonl.gz")
    return str(place)


def read_bundle(directory: str) -> tuple[Settings, Job, HuntRow]:
    """Return what was hunted, and the row that came of it.

    :raises TargetError: it is no bundle.
    """
    try:
        data = json.loads(Path(directory, "verdict.json").read_text(encoding="utf-8"))
        if data["bundle"] != FORMAT:
            raise ValueError
        settings, job = Settings.from_json(data["settings"]), Job.from_json(data["job"])
        row = data["row"]
        _ = row["outcome"], row["causes"], row["device"]
        return settings, job, row
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise TargetError(
            f"{directory} is no bundle of a hunt", "qmr hunt --bundle DIR writes them"
        ) from None


def _is_question(message: Mapping[str, object]) -> bool:
    command = str(message["execute"])
    arguments = message.get("arguments")
    line = str(arguments.get("command-line", "")) if isinstance(arguments, Mapping) else ""
    return command.startswith(_QUESTIONS) or line.startswith(("info ", "i/"))


# How a script ends; what is not here is QEMU's own status.
_STATUS = (
    "0 the device was finalized, 1 it leaks, 2 QEMU did not plug it,",
    "3 it is gone, and only the memory shows what it left (qmr replay);",
    "any other one is QEMU's own: 134 it aborted, 139 it was at an invalid address.",
)
_HANG_S = 60
# Of what is printed: whether the last device was plugged, and whether it was finalized.
_VERDICT = """cat "$out"
[ $status -eq 0 ] || {{ echo "QEMU ended with status $status" >&2; exit $status; }}
if grep -F '"id": "qmr-plug"' "$out" | grep -qF '"error"'; then
    echo {refused} >&2; exit 2
elif ! grep -F '"DEVICE_DELETED"' "$out" | grep -qF {event}; then
    echo {leaks} >&2; exit 1
fi"""


def _script(
    row: HuntRow,
    argv: Sequence[str],
    transcript: Sequence[Mapping[str, object]],
    behind: Sequence[str],
) -> str:
    """Return a shell script that does with QEMU alone what was done here.

    A leak shows as a ``DEVICE_DELETED`` that never comes; a crash as QEMU's exit status.

    :param behind: the peers that were behind the device; of these a script can make
        directories only.
    """
    commands = [
        dict(message)
        for message in transcript
        if "execute" in message and not _is_question(message)
    ]
    plugs = [command for command in commands if command["execute"] == "device_add"]
    directories = sorted(set(_DIRECTORY.findall(json.dumps(commands))))
    programs = sorted(set(behind) - {"directory"})
    qemu = _without_monitor(argv)
    if plugs:
        plugs[-1]["id"] = "qmr-plug"
    lines = [
        "#!/bin/sh",
        f"# {row['device']}: {row['outcome']} {' '.join(row['causes'])}".rstrip(),
        *(f"# {line}" for line in str(row["text"]).splitlines()[:8]),
        "# Exit status:",
        *(f"#   {line}" for line in _STATUS),
        *([_NOT_ALONE.format(", ".join(programs))] if programs else ()),
        "# Another QEMU: QEMU=path sh reproduce.sh",
        *(f"mkdir -p {shlex.quote(path)}" for path in directories),
        "out=$(mktemp)",
        f"trap 'rm -rf \"$out\" {' '.join(map(shlex.quote, directories))}' EXIT",
        "{",
        '    echo \'{"execute": "qmp_capabilities"}\'',
    ]
    for command in commands:
        lines += [f"    echo {shlex.quote(json.dumps(command))}", "    sleep 0.3"]
    limit = f"timeout {_HANG_S} " if row["outcome"] == "hang" else ""
    lines += [
        "    sleep 1",
        '    echo \'{"execute": "quit"}\'',
        f'}} | {limit}"${{QEMU:-{qemu[0]}}}" {shlex.join(qemu[1:])} -qmp stdio >"$out"',
        "status=$?",
        _verdict(row, plugs),
    ]
    return "\n".join(lines) + "\n"


def _verdict(row: HuntRow, plugs: Sequence[Mapping[str, object]]) -> str:
    """Return the end of the script, which says by its exit status what came of it."""
    device = row["device"]
    # What is no device has no event, and an event does not show what a device left behind.
    if plugs and row["outcome"] not in ("partial-leak", "stale"):
        text, code = f"{device} was finalized", 0
    else:
        text, code = f"QEMU alone does not show what {device} left; see qmr replay", 3
    last = f"echo {shlex.quote(text)} >&2; exit {code}"
    if not plugs:
        return f'cat "$out"; [ $status -eq 0 ] || exit $status\n{last}'
    arguments = plugs[-1].get("arguments")
    name = str(arguments.get("id", "")) if isinstance(arguments, dict) else ""
    verdict = _VERDICT.format(
        refused=shlex.quote(f"QEMU did not plug {device}"),
        event=shlex.quote(f'"device": "{name}"'),
        leaks=shlex.quote(f"{device} was unplugged and not finalized: it leaks"),
    )
    return f"{verdict}\n{last}"


_README = """# {head}

{text}

QEMU {version}, machine {machine}{policy}.

## Do it again

    sh reproduce.sh                      with the same QEMU
    QEMU=./qemu-system-x86_64 sh reproduce.sh
    qmr replay . --qemu PROGRAM          judged by the memory; suits git bisect run

The exit status of `reproduce.sh`: {status}

## What is here

| file | what it is |
|---|---|
| `reproduce.sh` | plugs and unplugs with QEMU alone |
| `verdict.json` | what was found, with every reference; `qmr replay` reads it |
| `command` | QEMU's command line |
| `transcript.jsonl` | what went over its monitor, a message a line |
| `before.jsonl.gz`, `plugged.jsonl.gz`, `after.jsonl.gz` | snapshots, as far as QEMU lived |

    qmr --snapshot after.jsonl.gz check
    qmr diff plugged.jsonl.gz after.jsonl.gz
"""


def _readme(row: HuntRow) -> str:
    return _README.format(
        head=" ".join([f"{row['device']}: {row['outcome']}", *row["causes"]]),
        text=row["text"],
        version=row.get("qemu_version") or "unknown",
        machine=row["machine"],
        policy=f", policy {row['policy']}" if row.get("policy") else "",
        status=" ".join(_STATUS),
    )


def _without_monitor(argv: Sequence[str]) -> list[str]:
    out, words = [], list(argv)
    while words:
        word = words.pop(0)
        if word == "-qmp":
            words.pop(0)
        else:
            out.append(word)
    return out
