"""What the build makes of the verbs: completion in three shells, and man pages."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pexpect
import pytest

from qmrinspect.fronts.shell import completion, manual
from qmrinspect.fronts.shell.table import EVERY

ROOT = Path(__file__).resolve().parent.parent
VERBS = [verb for verb in EVERY.values() if "shell" in verb.fronts]

#: What is typed, and some of what may follow; a file is wanted where that is a file's name.
CASES = (
    ("qmr re", {"refs", "report", "replay", "repl"}),
    ("qmr stock che", {"check"}),
    ("qmr stock check --j", {"--json"}),
    ("qmr --pid 12 cyc", {"cycles"}),
    ("qmr hunt --cam", {"--campaign"}),
    ("qmr hunt --cpus ", {"all", "own"}),
    ("qmr help mt", {"mtree"}),
    ("qmr diff there.", {"there.snapshot"}),
    ("qmr stock graph nic0 -o there.", {"there.snapshot"}),
    ("qmr --lay", {"--layout"}),
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory with a file, and a qmr that lists two VMs."""
    (tmp_path / "there.snapshot").touch()
    program = tmp_path / "bin" / "qmr"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'pid name'; echo '12 stock'; echo '13 renamed'\n")
    program.chmod(0o755)
    return tmp_path


def _run(words: Sequence[str], place: Path) -> str:
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "HOME": str(place), "XDG_CONFIG_HOME": str(place)}
    done = subprocess.run(
        list(words), cwd=place, env=env, capture_output=True, text=True, check=True, timeout=30
    )
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize(("line", "wanted"), CASES)
def test_bash_completes(place: Path, line: str, wanted: set[str]) -> None:
    script = place / "qmr.bash"
    script.write_text(completion.bash())
    words = line.split(" ")
    code = f"source {script}; COMP_WORDS=({line}{' '} ''); COMP_CWORD={len(words) - 1}; _qmr; "
    if line.endswith(" "):
        code = code.replace("''", '""')
    out = _run(["bash", "-c", code + 'printf "%s\\n" "${COMPREPLY[@]}"'], place)
    assert wanted <= set(out.split())
    if line == "qmr re":
        assert "renamed" in out and "check" not in out


@pytest.mark.parametrize(("line", "wanted"), CASES)
def test_fish_completes(place: Path, line: str, wanted: set[str]) -> None:
    script = place / "qmr.fish"
    script.write_text(completion.fish())
    out = _run(["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"], place)
    assert wanted <= {row.split("\t")[0] for row in out.splitlines()}
    if line == "qmr re":
        assert "renamed" in out and "check\t" not in out


def test_zsh_completes(place: Path) -> None:
    (place / "_qmr").write_text(completion.zsh())
    env = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "TERM": "dumb"}
    zsh = pexpect.spawn(
        "zsh", ["-fi"], cwd=str(place), env=env, encoding="utf-8", timeout=20, dimensions=(60, 200)
    )
    zsh.sendline("PROMPT='ready> '; unsetopt zle_bracketed_paste; echo begin")
    zsh.sendline(f"fpath=({place} $fpath); autoload -Uz compinit; compinit -u -D; echo bound")
    zsh.expect("\nbound")
    zsh.expect("ready> ")
    for line, wanted in CASES:
        zsh.send(line + "\t" * min(len(wanted), 2))
        shown, deadline = "", time.monotonic() + 20
        while not all(word in shown for word in wanted):
            assert time.monotonic() < deadline, (line, shown)
            with contextlib.suppress(pexpect.TIMEOUT):
                shown += zsh.read_nonblocking(4096, 0.1)
        zsh.send("\x15")  # kills the line
    zsh.close(force=True)


def test_every_verb_has_a_man_page_that_man_takes(tmp_path: Path) -> None:
    pages = manual.pages()
    assert set(pages) == {"qmr.1", *(f"qmr-{verb.name}.1" for verb in VERBS)}
    for name, text in pages.items():
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / name) for name in pages]
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-c", "-K", "utf8", *files],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    # What is bold is printed twice in one place.
    text = re.sub(".\x08", "", done.stdout)
    for verb in VERBS:
        assert verb.name in text
        for argument in verb.arguments:
            assert not argument.names[-1].startswith("-") or argument.names[-1] in text


@pytest.mark.timeout(120)
def test_the_wheel_has_them(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True, timeout=110)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for path in (
        "bash-completion/completions/qmr",
        "zsh/site-functions/_qmr",
        "fish/vendor_completions.d/qmr.fish",
        "man/man1/qmr.1",
        "man/man1/qmr-refs.1",
    ):
        assert any(name.endswith(f".data/data/share/{path}") for name in names), path
    assert "qmrinspect/gdb_script/qmr.py" in names
