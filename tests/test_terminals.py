"""What verbs show in terminals of 80, 120 and 200 columns: all of it, and no line too long."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Qmr
from terminal import Terminal

from qmrinspect.hotplug.vm import Vm

pytestmark = pytest.mark.timeout(240)

# Tables ------------------------------------------------------------------------------

#: Every verb that prints a table, on a snapshot; the others of the table print none.
TABLES = (
    "tree",
    "tree --all",
    "tree --outside",
    "show nic0",
    "show hda0@leaked",
    "mtree",
    "mtree --flat",
    "refs nic0",
    "refs hda0@leaked --all",
    "check",
    "orphans --all",
    "cycles --all",
    "policy",
    "forecast nic0",
    "forecast --boot",
    "layout",
    "diff {saved} {saved}",
    "why nic0",
)

_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")
_TOKEN = re.compile(r"[\w\[\]]+")
_RANGE = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")
_KIND = re.compile(r"(?:address-space-root|bus-child|parent-bus|flat-range|dispatch-section)")


def _in_one_process(saved: Path) -> str:
    lines = [f"--snapshot {saved} {line.format(saved=saved)}".split() for line in TABLES]
    return (
        "from qmrinspect.fronts.shell.cli import main\n"
        f"for words in {lines!r}:\n    print('##', *words[2:], flush=True)\n    main(words)\n"
    )


def _parts(text: str) -> dict[str, str]:
    found = re.split(r"(?m)^## ", text)[1:]
    return {name.strip(): rest for name, _, rest in (part.partition("\n") for part in found)}


def _tokens(text: str) -> set[str]:
    return set(_TOKEN.findall(_ADDRESS.sub("", text)))


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_no_table_loses_anything_in_a_terminal(saved: Path, tmp_path: Path, columns: int) -> None:
    code = _in_one_process(saved)
    piped = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    script = tmp_path / "all.py"
    script.write_text(code)
    with Terminal(home=tmp_path, columns=columns, program=[str(script)]) as terminal:
        assert terminal.ended(200.0) == 0
        # What the terminal itself had to break begins at the left again.
        shown = re.sub(r"\033\[[0-9;]*m", "", terminal.raw).replace("\r", "")
    whole, narrow = _parts(piped.stdout), _parts(shown)
    assert len(whole) == len(narrow) == len(TABLES)
    for name, text in whole.items():
        assert "…" not in narrow[name], name
        longest = max(narrow[name].splitlines(), key=len, default="")
        assert len(longest) <= columns, (name, longest)
        # The column of addresses is the one that may be left out.
        lost = _tokens(text) - _tokens(narrow[name])
        assert lost <= {"address"}, (name, lost)
        for pattern in (_RANGE, _KIND):
            wanted = set(pattern.findall(text if name != "mtree" else _without_aliases(text)))
            assert wanted <= set(pattern.findall(narrow[name])), name


def _without_aliases(text: str) -> str:
    # The range within what is aliased is part of a name, and may be broken behind its dash.
    return re.sub(rf"(alias of .*?) {_RANGE.pattern}", r"\1", text)


def test_wide_shows_what_is_left_out(saved: Path, tmp_path: Path) -> None:
    words = ("--snapshot", saved, "refs", "nic0")
    with Terminal(*words, home=tmp_path, columns=80) as terminal:
        assert terminal.ended() == 0
        assert "--wide" in terminal.text and "address\n" not in terminal.text
    with Terminal(*words, "--wide", home=tmp_path, columns=80) as terminal:
        assert terminal.ended() == 0
        assert "--wide" not in terminal.text and re.search(r"field +address", terminal.raw)


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_no_table_of_a_live_vm_loses_anything(leaky: Vm, tmp_path: Path, columns: int) -> None:
    device = f"bochs{columns}"
    lines = [
        ["ps"],
        ["plug", leaky.pid, "bochs-display", f"id={device}"],
        ["forecast", leaky.pid, device],
        ["unplug", leaky.pid, device],
        ["trace", leaky.pid, "--plug", "e1000", f"id=traced{columns}", "--tree"],
        ["unplug", leaky.pid, f"traced{columns}"],
    ]
    script = tmp_path / "live.py"
    script.write_text(
        "from qmrinspect.fronts.shell.cli import main\n"
        f"for words in {[list(map(str, line)) for line in lines]!r}:\n    main(words)\n"
    )
    with Terminal(home=tmp_path, columns=columns, program=[str(script)]) as terminal:
        assert terminal.ended(200.0) == 0
        shown = re.sub(r"\033\[[0-9;]*[mK]", "", terminal.raw)
    assert "…" not in shown
    assert max(len(line) for line in shown.replace("\r", "").splitlines()) <= columns
    words = " ".join(shown.split())
    assert "same-owner-subregions" in words and "subregion 3" in words
    assert "bochs-display-mmio[0]" in words and '"bochs' in words
    assert "bus-child" in words and "qdev_set_parent_bus" in words  # who took it
    assert str(leaky.pid) in words and Path(leaky.qmp).name in words


@pytest.mark.parametrize("columns", [40, 80])
def test_help_is_never_cut(tmp_path: Path, qmr: Qmr, columns: int) -> None:
    for words in (["--help"], ["help", "hunt"]):
        with Terminal(*words, home=tmp_path, columns=columns) as terminal:
            assert terminal.ended() == 0
            assert "…" not in terminal.text
            lost = _tokens(qmr(*words).out) - _tokens(terminal.text)
            assert not {word for word in lost if len(word) < columns // 4}


# Progress ----------------------------------------------------------------------------


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_a_row_erases_the_progress_first(tmp_path: Path, term: str) -> None:
    words = ("hunt", "--cycles", "2", "e1000e", "usb-tablet")
    with Terminal(*words, home=tmp_path, columns=80, env={"TERM": term}) as terminal:
        terminal.wait("2 clean", "a hunt ends")
        terminal.ended()
        assert ("\033[K" in terminal.raw) == (term != "dumb")
        for line in terminal.lines:
            assert not ("done" in line and "clean" in line), line
        assert any(re.match(r"e1000e +clean", line) for line in terminal.lines)


def test_a_refusal_breaks_between_words(saved: Path, tmp_path: Path) -> None:
    name = "nobody-at-all-whose-name-is-longer-than-anything"
    with Terminal("--snapshot", saved, "refs", name, home=tmp_path, columns=60) as terminal:
        assert terminal.ended() == 2
        lines = [line for line in terminal.lines if line]
    assert len(lines) > 1 and lines[0].startswith("qmr: there is no object")
    assert name in "\n".join(lines)
