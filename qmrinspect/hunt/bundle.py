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
from ..peers.peer import DIRECTORY_PREFIX
from ..store import save
from .cycle import Hunted
from .settings import Job, Settings

__all__ = ["FORMAT", "read_bundle", "write_bundle"]

FORMAT = "qmr-bundle/1"

_SNAPSHOTS = ("before", "plugged", "after")

# What qmr asks to know where things stand, and the guest's part needs no more of.
_QUESTIONS = ("qom-list", "qom-get", "query-", "qmp_capabilities", "qom-list-types")


# The path of a peer's directory.
_DIRECTORY = re.compile(rf"/[^\"]*?/{DIRECTORY_PREFIX}\w+")

_NOT_ALONE = "echo 'QEMU alone may not do: behind it was {}; see qmr replay' >&2"


def write_bundle(
    directory: str,
    settings: Settings,
    job: Job,
    row: HuntRow,
    hunted: Hunted,
    argv: Sequence[str],
    transcript: Sequence[Mapping[str, object]],
    hosts: Sequence[str],
) -> str:
    """Write the bundle of one finding and return its directory.

    :param argv: QEMU's command line.
    :param hosts: what the VM had been started with.
    :raises TargetError: it cannot be written.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{row['device']}-{row['outcome']}")
    place = Path(directory) / name
    try:
        place.mkdir(parents=True, exist_ok=True)
        _json(
            place / "verdict.json",
            {
                "bundle": FORMAT,
                "settings": {**settings._asdict(), "hosts": list(hosts), "bundle": ""},
                "job": job._asdict(),
                "row": {key: value for key, value in row.items() if key != "bundle"},
            },
        )
        (place / "command").write_text(shlex.join(argv) + "\n")
        with open(place / "transcript.jsonl", "w", encoding="utf-8") as file:
            for message in transcript:
                file.write(json.dumps(message) + "\n")
        script = place / "reproduce.sh"
        behind = [backend.peer for backend in hunted.recipe.backends if backend.peer]
        script.write_text(_script(row, argv, transcript, behind))
        script.chmod(0o755)
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
        fields = {**data["settings"], "hosts": tuple(data["settings"]["hosts"])}
        row = data["row"]
        _ = row["outcome"], row["causes"], row["device"]
        return Settings(**fields), Job(**data["job"]), row
    except (OSError, ValueError, KeyError, TypeError):
        raise TargetError(
            f"{directory} is no bundle of a hunt", "qmr hunt --bundle DIR writes them"
        ) from None


def _json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _is_question(message: Mapping[str, object]) -> bool:
    command = str(message["execute"])
    arguments = message.get("arguments")
    line = str(arguments.get("command-line", "")) if isinstance(arguments, Mapping) else ""
    return command.startswith(_QUESTIONS) or line.startswith(("info ", "i/"))


def _script(
    row: HuntRow,
    argv: Sequence[str],
    transcript: Sequence[Mapping[str, object]],
    behind: Sequence[str],
) -> str:
    """Return a shell script that does with QEMU alone what was done here.

    The leak itself shows as a ``DEVICE_DELETED`` that never comes; a crash as an exit
    status of QEMU's.

    :param behind: the peers that were behind the device; of these a script can make
        directories only.
    """
    commands = [
        message for message in transcript if "execute" in message and not _is_question(message)
    ]
    directories = sorted(set(_DIRECTORY.findall(json.dumps(commands))))
    programs = sorted(set(behind) - {"directory"})
    qemu = _without_monitor(argv)
    lines = [
        "#!/bin/sh",
        f"# {row['device']}: {row['outcome']} {' '.join(row['causes'])}".rstrip(),
        *(f"# {line}" for line in str(row["text"]).splitlines()[:8]),
        "# Look for DEVICE_DELETED of the device: it never comes when the device leaks, and",
        "# comes in a partial leak, which only the memory shows (qmr PID check).",
        *([_NOT_ALONE.format(", ".join(programs))] if programs else ()),
        "# Another QEMU: QEMU=path sh reproduce.sh",
        *(f"mkdir -p {shlex.quote(path)}" for path in directories),
        *([f"trap 'rm -rf {' '.join(directories)}' EXIT"] if directories else ()),
        "{",
        '    echo \'{"execute": "qmp_capabilities"}\'',
    ]
    for command in commands:
        lines += [f"    echo {shlex.quote(json.dumps(command))}", "    sleep 0.3"]
    lines += [
        "    sleep 1",
        '    echo \'{"execute": "quit"}\'',
        '} | "${QEMU:-' + qemu[0] + '}" ' + shlex.join(qemu[1:]) + " -qmp stdio",
        'status=$?; echo "QEMU ended with status $status" >&2; exit $status',
    ]
    return "\n".join(lines) + "\n"


def _without_monitor(argv: Sequence[str]) -> list[str]:
    out, words = [], list(argv)
    while words:
        word = words.pop(0)
        if word == "-qmp":
            words.pop(0)
        else:
            out.append(word)
    return out
