"""Snapshot files
--------------

``qmr-snapshot/1``: JSON Lines, the header first, then one line a record.  A name
that ends in ``.gz`` or ``.zst`` is compressed.  Reading one executes nothing from
it and believes none of its sizes.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from subprocess import PIPE
from typing import IO, Any, cast, get_args, get_origin, get_type_hints

from . import snapshot as model
from .errors import TargetError
from .outfile import open_private, unwritable
from .snapshot import Address, Snapshot, TargetInfo
from .target.image import Capture
from .text import printable

__all__ = ["FORMAT", "load", "save"]

FORMAT = "qmr-snapshot/1"

# A file that unpacks to more than this is no snapshot of a QEMU.
_BYTES_MAX = 1 << 30
# One record of it is no larger than this.
_LINE_MAX = 16 << 20

# Record name in the file, type, and the field of Snapshot that it goes to.
_RECORDS: dict[str, tuple[type, str]] = {
    "type": (model.TypeInfo, "types"),
    "object": (model.Obj, "objects"),
    "property": (model.Prop, "props"),
    "device": (model.Device, "devices"),
    "gpio": (model.GpioList, "gpios"),
    "clock": (model.Clock, "clocks"),
    "bus": (model.Bus, "buses"),
    "region": (model.Region, "regions"),
    "space": (model.Space, "spaces"),
    "listener": (model.Listener, "listeners"),
    "view": (model.View, "views"),
    "pending": (model.Pending, "pending"),
    "slot": (model.FieldReference, "fields"),
    "note": (model.Note, "notes"),
    "pointer": (model.Pointer, "pointers"),
    "unsearched": (model.Unsearched, "unsearched"),
    "unknown": (model.Unknown, "unknown"),
    "stale": (model.Stale, "stale"),
    "unplugging": (model.Unplugging, "unplugging"),
}

_SEQUENCES = (
    "props gpios clocks pending fields notes pointers unsearched unknown stale unplugging"
).split()


def save(snapshot: Snapshot, path: str | Path) -> None:
    """Write a snapshot file.

    :raises TargetError: when it cannot be written.
    """
    path = Path(path)
    # A device or a pipe is written to, not replaced.
    special = path.exists() and not path.is_file()
    part = path if special else path.with_name(path.name + ".part")
    try:
        with open(part, "wb", opener=open_private) as raw, _writing(raw, path) as file:
            for line in _lines(snapshot):
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
        if not special:
            part.replace(path)
    except OSError as error:
        if not special:
            part.unlink(missing_ok=True)
        raise unwritable(path, error) from None


def _lines(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    yield {
        "format": FORMAT,
        "target": snapshot.target._asdict(),
        "capture": snapshot.capture._asdict(),
    }
    count = 0
    for name, (_, field) in _RECORDS.items():
        rows = getattr(snapshot, field)
        for row in rows.values() if isinstance(rows, dict) else rows:
            yield {"is": name, **_plain(row)}
            count += 1
    yield {"end": count}


# Fields whose key in a file is another one.
_KEYS = {"children": "kids"}


def _plain(row: Any) -> dict[str, Any]:
    hints = _hints(row.__class__).items()
    return {_KEYS.get(name, name): _encode(hint, getattr(row, name)) for name, hint in hints}


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _encode(hint: Any, value: Any) -> Any:
    if hint is Address:
        return hex(value)
    if get_origin(hint) is tuple:
        return [_encode(get_args(hint)[0], item) for item in value]
    return _plain(value) if hasattr(hint, "_fields") else value


def _decode(hint: Any, value: Any) -> Any:
    """Return a value of the type a field has; TypeError or ValueError when it is another."""
    if hint is Address:
        return int(value, 16)
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise TypeError(value)
        return tuple(_decode(get_args(hint)[0], item) for item in value)
    if hasattr(hint, "_fields"):
        return _build(hint, value)
    if type(value) is not hint:
        raise TypeError(value)
    return value


def _build(kind: Any, data: dict[str, Any]) -> Any:
    # A field with a default came later than some files.
    later = kind._field_defaults
    return kind(
        **{
            name: _decode(hint, data[_KEYS.get(name, name)])
            for name, hint in _hints(kind).items()
            if _KEYS.get(name, name) in data or name not in later
        }
    )


@contextmanager
def _writing(raw: IO[bytes], path: Path) -> Iterator[IO[str]]:
    """Write text into an open file, compressed as its name says."""
    if path.suffix == ".gz":
        with gzip.open(raw, "wt", encoding="utf-8") as packed:
            yield cast("IO[str]", packed)
    elif path.suffix == ".zst":
        command = [_zstd(path), "-qc"]
        with subprocess.Popen(
            command, stdin=PIPE, stdout=raw, stderr=PIPE, encoding="utf-8", errors="replace"
        ) as process:
            assert process.stdin is not None and process.stderr is not None
            # It may have ended, and says why.
            with suppress(BrokenPipeError):
                yield process.stdin
            with suppress(BrokenPipeError):
                process.stdin.close()
            said = printable(process.stderr.read().strip()) or "no reason"
        if process.returncode:
            raise OSError(f"zstd ended with {process.returncode}: {said}")
    else:
        text = io.TextIOWrapper(raw, encoding="utf-8")
        yield text
        text.flush()
        text.detach()


@contextmanager
def _reading(path: Path) -> Iterator[IO[str]]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as packed:
            yield cast("IO[str]", packed)
    elif path.suffix == ".zst":
        command = [_zstd(path), "-dcq", "--", str(path)]
        with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, encoding="utf-8") as process:
            assert process.stdout is not None
            yield process.stdout
            process.stdout.close()
        if process.returncode:
            raise OSError("zstd says that it is damaged or cut short")
    else:
        with open(path, encoding="utf-8") as file:
            yield file


def _zstd(path: Path) -> str:
    # Python has no zstd before 3.14; the program is everywhere.
    program = shutil.which("zstd")
    if program is None:
        raise TargetError(
            f"{path} needs the program zstd", "apt-get install zstd, or use a name in .gz"
        )
    return program


def load(path: str | Path) -> Snapshot:
    """Read a snapshot file.

    :raises TargetError: when there is none, or it is cut short, or damaged.
    """
    path = Path(path)
    try:
        with _reading(path) as file:
            return _parse(file, path)
    except FileNotFoundError:
        raise TargetError(f"there is no snapshot {path}", "qmr NAME save FILE makes one") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TargetError(f"{path} cannot be read: {error}") from None


def _parse(file: IO[str], path: Path) -> Snapshot:
    fields: dict[str, Any] = {}
    rows: dict[str, list[Any]] = {field: [] for _, field in _RECORDS.values()}
    total = number = 0
    ended = False
    try:
        for number, line in enumerate(iter(lambda: file.readline(_LINE_MAX), ""), 1):
            total += len(line)
            if total > _BYTES_MAX or len(line) == _LINE_MAX:
                raise TargetError(f"{path} is too large to be a snapshot")
            data = json.loads(line)
            if number == 1:
                if data.get("format") != FORMAT:
                    raise TargetError(
                        f"{path} is not a qmr snapshot ({FORMAT})", "qmr NAME save FILE makes one"
                    )
                fields["target"] = _build(TargetInfo, data["target"])
                fields["capture"] = _build(Capture, data["capture"])
            elif "end" in data:
                ended = data["end"] == number - 2
            else:
                kind, field = _RECORDS[data["is"]]
                rows[field].append(_build(kind, data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise TargetError(
            f"{path} is damaged at line {number}", "it was cut short, or is no qmr snapshot"
        ) from None
    if not ended:
        raise TargetError(f"{path} is truncated", "save it again")
    for _, field in _RECORDS.values():
        if field == "types":
            fields[field] = {row.name: row for row in rows[field]}
        elif field in _SEQUENCES:
            fields[field] = tuple(rows[field])
        else:
            fields[field] = {row.address: row for row in rows[field]}
    return Snapshot(**fields)
