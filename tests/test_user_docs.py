"""The pages for users: their commands are right, and do what the pages say."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT, Block, blocks, missing

from qmrinspect.errors import QmrError
from qmrinspect.fronts.line import parse
from qmrinspect.fronts.options import ANYWHERE, VALUED
from qmrinspect.fronts.repl.table import REPL_VERBS
from qmrinspect.fronts.shell.table import EVERY
from qmrinspect.hotplug.vm import Vm
from qmrinspect.verbs.verb import parser_for

#: Pages all of whose commands are run here, on snapshots that the repository has.
PAGES = ("finding.md", "python.md")
BLOCKS = [(page, block) for page in PAGES for block in blocks(ROOT / "docs" / page)]
EVERY_PAGE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# What stands for a number, in help and in pages.
_NUMBERS = re.compile(r"\b(?:N|SECONDS)\b")


@pytest.mark.parametrize(
    ("page", "block"), BLOCKS, ids=[f"{page}-{block.heading}" for page, block in BLOCKS]
)
def test_a_command_shows_what_the_page_says(page: str, block: Block, tmp_path: Path) -> None:
    assert block.shown
    assert missing(block, tmp_path) == ""


# Every command of every page -------------------------------------------------------


def _lines(page: Path) -> Iterator[str]:
    """Yield the lines of a page's blocks, indented or fenced."""
    fenced = False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()


def _commands(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the commands of qmr in a page: the front, and the line."""
    for line in _lines(page):
        gdb = re.match(r"\(gdb\) (?:qmr |q(?=refs|check|tree))(.*)", line)
        if gdb:
            yield "gdb", re.split(r"\s{2,}|#", gdb[1])[0]
            continue
        prompt = re.match(r"[\w-]+> (.*)", line)
        if prompt and page.name == "session.md":
            yield "repl", prompt[1]
            continue
        # Elsewhere these are what a command printed.
        shown = "" if page.name in ("session.md", "case-study.md", "policies.md") else "?"
        shell = re.match(rf"(?:\$ ){shown}(?:sudo )?qmr (?!\w+,)(.*)", line)
        if shell:
            # What follows two spaces is what the line is for; and one line may have two.
            for part in re.split(r";|\s&&\s", re.split(r"\s{2,}", f"qmr {shell[1]}")[0]):
                if part.strip().startswith("qmr "):
                    yield "shell", re.split(r"\s[|<>]|\s2>", part.strip()[4:])[0]


FOUND = [(page.name, front, line) for page in EVERY_PAGE for front, line in _commands(page)]


@pytest.mark.unit
def test_the_pages_have_commands() -> None:
    assert len(FOUND) > 100
    assert {front for _, front, _ in FOUND} == {"shell", "gdb", "repl"}


@pytest.mark.unit
@pytest.mark.parametrize("page", sorted({page for page, _, _ in FOUND}))
def test_every_command_of_a_page_is_one(page: str) -> None:
    wrong = []
    for _, front, line in [one for one in FOUND if one[0] == page]:
        try:
            _read(front, line)
        except (QmrError, SystemExit, ValueError) as error:
            wrong.append(f"{line}: {error}")
    assert wrong == []


def _read(front: str, line: str) -> None:
    """Read a line as its front does.

    :raises QmrError: it is wrong.
    """
    line = _NUMBERS.sub("3", line).replace("...", "x")
    if front == "shell":
        words = shlex.split(re.sub(r"\$\([^)]*\)", "X", line).replace("\\", ""))
        while words and words[0] in VALUED:
            del words[:2]
        if words and words[0] in ("--version", "--help", "-V", "-h"):
            return
        if words[0] not in EVERY:
            del words[0]  # the target
        if not words or words[0] not in EVERY:
            raise ValueError("no verb")
        own = words[1:]
        for option in ANYWHERE:
            while option in own:
                at = own.index(option)
                del own[at : at + 2]
        own = [word for word in own if word != "--debug"]
        parser_for(EVERY[words[0]]).parse_args(own)
        return
    word, _, rest = line.partition(" ")
    if front == "gdb":
        parse(EVERY[word], rest.split("  ")[0])
    elif word in REPL_VERBS:
        parse(REPL_VERBS[word], rest.split(" | ")[0])


# README's own finds ----------------------------------------------------------------


def _plain(text: str) -> str:
    # Addresses differ, and so does how many devices its VM has seen.
    text = re.sub(r"\bdut\d+", "dut", re.sub(r"<?0x[0-9a-f]+>?", "<at>", text))
    return re.sub(r"\s+", " ", text).strip()


README = {block.commands[0]: block for block in blocks(ROOT / "README.md")}


def test_the_first_find_of_readme_is_found() -> None:
    command = "qmr hunt --trace intel-hda piix3-usb-uhci qxl"
    words = [sys.executable, "-m", "qmrinspect", *command.split()[1:]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 1, done.stderr
    said = _plain(done.stdout)
    shown = _plain(" ".join(README[command].shown))
    finds = re.split(r" (?=\S+ (?:leak|partial-leak) \S+ )", shown)
    assert len(finds) == 3
    assert [find for find in finds if find not in said] == []


def test_the_references_of_readme_are_there() -> None:
    block = README["qmr vm1 refs hda0"]
    with Vm(extra=("-device", "intel-hda,id=hda0")) as vm:
        words = [sys.executable, "-m", "qmrinspect", str(vm.pid), "refs", "hda0"]
        said = _plain(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    # The number of the child depends on what else the machine has.
    said = re.sub(r"BusChild\[\d+\]", "BusChild[5]", said)
    for line in block.shown[:1] + block.shown[2:]:
        assert _plain(line) in said


def test_the_case_study_is_so(tmp_path: Path) -> None:
    study = [b for b in blocks(ROOT / "docs" / "case-study.md") if b.commands[0][:4] == "qmr "]
    assert len(study) == 3
    irq = ""
    with Vm(extra=("-name", "vm1")) as vm:
        for block in study:
            said = ""
            for command in block.commands:
                words = command.replace("vm1", str(vm.pid)).split()[1:]
                words = [irq if word.startswith("0x") else word for word in words]
                done = subprocess.run(
                    [sys.executable, "-m", "qmrinspect", *words],
                    cwd=tmp_path,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    capture_output=True,
                    text=True,
                    timeout=50,
                    check=False,
                )
                assert done.returncode < 2, done.stderr
                said += done.stdout
            irq = (re.findall(r"irq <(0x\w+)>", said) or [irq])[0]
            assert [line for line in block.shown if not _said(line, _plain(said))] == []


def _said(line: str, said: str) -> bool:
    # Tables may leave the address out.
    return re.sub(r"( <at>)+$", "", _plain(line)) in said


# In CI -----------------------------------------------------------------------------

WORKFLOW = ROOT / "examples" / "ci" / "github-workflow.yml"


def _steps() -> dict[str, str]:
    """Return the commands of the workflow's steps, by name."""
    found = {}
    for step in re.split(r"^ {6}- ", WORKFLOW.read_text(), flags=re.M)[1:]:
        name = re.match(r"name: (.*)\n", step)
        run = re.search(r"^ {8}run: \|\n((?: {10}.*\n)+)", step, re.M)
        if name and run:
            found[name[1]] = re.sub(r"^ {10}", "", run[1], flags=re.M)
    return found


@pytest.mark.unit
def test_the_page_on_ci_has_the_workflow() -> None:
    text = (ROOT / "docs" / "ci.md").read_text()
    assert f"```yaml\n{WORKFLOW.read_text()}```\n" in text
    assert (ROOT / "examples" / "ci" / "expect.json").read_text() in text


#: What stands for programs of the runner: root's packages are those that are known to apt, and pipx
#: installs into a directory of the test, without the packages that qmr needs, which are here.
_STUBS = {
    "sudo": 'exec "$@"',
    "apt-get": """
        for word; do
            case $word in update | install | --yes) ;; *) apt-cache show "$word" >/dev/null;; esac
        done
        echo "$1" >>../apt-get.log""",
    "pipx": f"""
        test "$1" = install
        {sys.executable} -m pip install --quiet --no-deps --ignore-installed \\
            --prefix ../prefix "$2" """,
}


@pytest.mark.timeout(600)
def test_the_workflow_installs_hunts_and_reports(tmp_path: Path) -> None:
    steps = _steps()
    assert list(steps) == ["Install", "Hunt", "Report"]
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, text in _STUBS.items():
        (stubs / name).write_text(f"#!/bin/sh\nset -e\n{text}\n")
        (stubs / name).chmod(0o755)
    tmp_path = tmp_path / "checkout"
    tmp_path.mkdir()
    (tmp_path / "qmr").symlink_to(ROOT)
    prefix = tmp_path.parent / "prefix"
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci" / "expect.json").write_text(
        (ROOT / "examples" / "ci" / "expect.json").read_text()
    )

    commit = {"GITHUB_SHA": "abc1234"}

    def step(name: str, **env: str) -> int:
        path = f"{stubs}:{prefix}/bin:{os.environ['PATH']}"
        sites = ":".join(map(str, prefix.glob("lib/python*/site-packages")))
        return subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", steps[name]],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "PYTHONPATH": sites, **commit, **env},
            stdout=subprocess.DEVNULL,
            check=False,
        ).returncode

    assert step("Install") == 0
    assert (prefix.parent / "apt-get.log").read_text() == "update\ninstall\n"
    # What was installed is what runs.
    (site,) = prefix.glob("lib/python*/site-packages")
    ran = subprocess.run(
        [prefix / "bin" / "qmr", "gdb-script"],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith(f"{site}/qmrinspect/")
    # What is expected does not fail; another leak does, unless the baseline has it.
    assert step("Hunt", DRIVERS="intel-hda edu") == 0
    assert step("Report") == 0
    assert "intel-hda" in (tmp_path / "report.html").read_text()
    assert 'name="commit" value="abc1234"' in (tmp_path / "junit.xml").read_text()
    assert (tmp_path / "bundles" / "intel-hda-leak" / "reproduce.sh").is_file()
    (tmp_path / "hunt.sqlite").unlink()
    assert step("Hunt", DRIVERS="bochs-display") == 1
    assert step("Report") == 0
    (tmp_path / "hunt.sqlite").unlink()
    known = {"device": "bochs-display", "outcome": "leak", "causes": ["same-owner-subregions"]}
    (tmp_path / "ci" / "baseline.jsonl").write_text(json.dumps(known) + "\n")
    assert step("Hunt", DRIVERS="bochs-display") == 0


# The site --------------------------------------------------------------------------


def test_the_site_has_a_search_and_no_dead_link(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    index = json.loads((tmp_path / "site" / "search" / "search_index.json").read_text())
    assert {"faq/", "causes/", "ci/"} <= {page["location"] for page in index["docs"]}


@pytest.mark.unit
def test_every_page_is_in_the_site() -> None:
    named = set(re.findall(r"- (\S+\.md)", (ROOT / "mkdocs.yml").read_text()))
    assert named == {page.name for page in (ROOT / "docs").glob("*.md")}


@pytest.mark.unit
def test_pictures_are_there_and_small() -> None:
    pictures = sorted((ROOT / "docs" / "img").glob("*.png"))
    looks = [f"{width}-{scheme}" for width in (1280, 400) for scheme in ("dark", "light")]
    wanted = {f"{name}-{look}" for name in ("check", "hunt") for look in looks}
    assert {picture.stem for picture in pictures} == wanted
    assert max(picture.stat().st_size for picture in pictures) < 200_000
