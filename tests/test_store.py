"""Snapshot files: what is written is what is read, and a damaged one is one sentence."""

from __future__ import annotations

import gzip
import json
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeMachine

from qmrinspect import store
from qmrinspect.audit import check
from qmrinspect.errors import QmrError, TargetError
from qmrinspect.snapshot import FieldReference, Note, Pending, Snapshot
from qmrinspect.store import load, save

SUFFIXES = (".jsonl", ".gz", ".zst")


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    machine = FakeMachine()
    machine.clock(machine.serial, "clk")
    machine.bar.name = '\x1b[2J \u20ac \udce9 "quoted" \\ \n'
    kid = machine.pci.kids[0]
    machine.dead_kids.append(kid)
    taken = machine.snapshot()
    return taken._replace(
        pending=(Pending(kid.address, "bus-child", kid.child.address),),
        fields=(*taken.fields, FieldReference("initial", 0, "field[0]", machine.nic.address)),
        notes=(Note((1 << 64) - 1, "something \udcff odd"),),
    )


@pytest.fixture(scope="module")
def lines(snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("store") / "plain.jsonl"
    save(snapshot, path)
    return path.read_text().splitlines()


def refused(path: Path) -> str:
    with pytest.raises(TargetError) as caught:
        load(path)
    assert str(path) in caught.value.text
    assert "\n" not in caught.value.text
    assert caught.value.exit_code == 2
    return caught.value.text


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(snapshot: Snapshot, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"machine{suffix}"
    save(snapshot, path)
    again = load(path)
    assert again == snapshot
    assert [type(row) for row in again.props[:1]] == [type(row) for row in snapshot.props[:1]]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_replaced_in_one_step(snapshot: Snapshot, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"machine{suffix}"
    save(snapshot._replace(props=()), path)
    save(snapshot, path)
    assert load(path) == snapshot


def test_what_is_written_is_json_lines(lines: list[str]) -> None:
    header = json.loads(lines[0])
    assert header["format"] == "qmr-snapshot/1"
    assert header["target"]["machine"] == "pc"
    assert json.loads(lines[-1]) == {"end": len(lines) - 2}
    objects = [row for row in map(json.loads, lines[1:-1]) if row["is"] == "object"]
    assert all(row["address"].startswith("0x") for row in objects)


def test_keys_that_a_later_qmr_adds_are_passed_over(lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "later.jsonl"
    rows = [{**json.loads(line), "new_key": [1, {"a": None}]} for line in lines]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load(path).objects


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_file_is_refused(snapshot: Snapshot, tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    save(snapshot, whole)
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    # Every 50th byte; of the large plain file and of the one that takes a process to
    # unpack, as many places all over it.
    step = 50 if suffix == ".gz" else max(50, len(data) // 60 // 50 * 50)
    for length in range(0, len(data) - 1, step):
        cut.write_bytes(data[:length])
        refused(cut)


def test_a_plain_file_is_refused_wherever_a_line_ends(lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl"
    for count in range(len(lines)):
        path.write_text("".join(line + "\n" for line in lines[:count]))
        refused(path)


@pytest.mark.parametrize("suffix", (".gz", ".zst"))
def test_a_damaged_archive_is_refused(snapshot: Snapshot, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"damaged{suffix}"
    save(snapshot, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    refused(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_none_at_all(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"none{suffix}"
    for content in (
        b"",
        b"\0" * 5000,
        b"\x7fELF" + b"x" * 100,
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"3\n",
    ):
        path.write_bytes(content)
        refused(path)
    refused(tmp_path / f"missing{suffix}")
    (tmp_path / f"directory{suffix}").mkdir()
    refused(tmp_path / f"directory{suffix}")


BAD: list[Any] = [
    None, True, 1, -1, 1.5, 1e308, "", "0x", "0xzz", "-0x1", "0x" + "f" * 5000,
    [], [None], {}, {"a": 1}, [[]], 10**400,
]  # fmt: skip


@pytest.mark.parametrize("value", BAD, ids=lambda value: repr(value)[:20])
def test_wrong_types_are_refused_or_mean_what_they_say(
    lines: list[str], tmp_path: Path, value: Any
) -> None:
    path = tmp_path / "hostile.jsonl"
    seen = set()
    for number, line in enumerate(lines):
        row = json.loads(line)
        kind = row.get("is", number)
        if kind in seen:
            continue
        seen.add(kind)
        for key in row:
            changed = json.dumps({**row, key: value})
            path.write_text("\n".join([*lines[:number], changed, *lines[number + 1 :], ""]))
            try:
                snapshot = load(path)
            except TargetError:
                continue
            # It passed as a value of the right type: then everything must go on.
            try:
                check(snapshot)
            except QmrError:
                continue


@pytest.mark.parametrize(
    "line",
    (
        "[" * 100_000,
        '{"is":' * 100_000,
        '{"is": "object", "address": ' + "9" * 100_000 + "}",
        '{"is": "object", "address": "0x1", "type": "a", "ref": 1e999, "parent": "0x0"}',
        '{"is": "__class__"}',
        '{"is": ["object"]}',
        '{"is": {"object": 1}}',
        '{"end": "0"}',
        '{"end": -1}',
        "\ufeff{}",
        '{"is": "object"',
        "",
        "NaN",
        '"text"',
        "\udcff",
    ),
    ids=lambda line: ascii(line)[:24],
)
def test_a_hostile_line_is_refused(lines: list[str], tmp_path: Path, line: str) -> None:
    path = tmp_path / "hostile.jsonl"
    text = "\n".join([*lines[:3], line, *lines[3:], ""])
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(path)


def test_records_that_are_missing_or_said_twice(lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    for changed in (
        [*lines[:5], *lines[6:]],
        [*lines[:6], *lines[5:]],
        [*lines, lines[-1]],
        [*lines, lines[0]],
        [lines[0], *lines],
        lines[1:],
    ):
        path.write_text("".join(line + "\n" for line in changed))
        refused(path)


def test_a_snapshot_that_unpacks_to_too_much(
    monkeypatch: pytest.MonkeyPatch, lines: list[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(store, "_BYTES_MAX", 1 << 20)
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wt") as file:
        file.write(lines[0] + "\n")
        for _ in range(4):
            file.write('{"is": "note", "address": "0x0", "text": "' + " " * (1 << 20) + '"}\n')
    assert "too large" in refused(path)


def test_one_endless_line_is_not_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(store, "_LINE_MAX", 1 << 20)
    path = tmp_path / "line.gz"
    with gzip.open(path, "wt") as file:
        for _ in range(64):
            file.write(" " * (1 << 20))
    tracemalloc.start()
    try:
        assert "too large" in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_another_format_is_said_to_be_one(lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    header = {**json.loads(lines[0]), "format": "qmr-snapshot/2"}
    path.write_text("\n".join([json.dumps(header), *lines[1:], ""]))
    assert "qmr-snapshot/1" in refused(path)


def test_a_place_that_cannot_be_written(snapshot: Snapshot, tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        with pytest.raises(TargetError, match="cannot be written"):
            save(snapshot, tmp_path / "nowhere" / f"x{suffix}")
        assert not list(tmp_path.iterdir())


def test_why_zstd_failed_is_part_of_the_sentence(
    snapshot: Snapshot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    program = tmp_path / "zstd"
    program.write_text("#!/bin/sh\necho No space left on device >&2\nexit 70\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="No space left on device"):
        save(snapshot, tmp_path / "x.zst")
    assert capfd.readouterr().err == ""


def test_without_zstd_there_is_a_hint(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError) as caught:
        save(snapshot, tmp_path / "x.zst")
    assert "zstd" in caught.value.hint


def test_other_programs_can_read_it(snapshot: Snapshot, tmp_path: Path) -> None:
    path = tmp_path / "x.zst"
    save(snapshot, path)
    done = subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True)
    assert json.loads(done.stdout.splitlines()[0])["format"] == "qmr-snapshot/1"
