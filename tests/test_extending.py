"""What docs/extending.md says is what it takes: each example is put where the page says.

A kind of reference is in tests/test_references.py, a layout in tests/test_layout_sources.py.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FakeMachine

import qmrinspect
from qmrinspect.hotplug.catalogue import RULES, START_OPTIONS
from qmrinspect.hotplug.nondevices import NON_DEVICES
from qmrinspect.peers import PEERS, open_peer
from qmrinspect.store import save

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parent.parent


def example(section: str, number: int = 0) -> str:
    """Return a block of Python of a section of the page."""
    text = (ROOT / "docs" / "extending.md").read_text()
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    blocks: list[str] = re.findall(r"```python\n(.*?)```", body, re.S)
    return blocks[number]


def entries(block: str) -> str:
    """Return the entries of the tuples of a block, to be put into another tuple."""
    rows = ast.parse(block).body
    calls = [row.value.elts[0] for row in rows if isinstance(row, ast.Expr)]  # type: ignore[attr-defined]
    return "".join(f"{ast.unparse(call)},\n" for call in calls)


class Package:
    """A copy of qmr to be extended."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        source = Path(qmrinspect.__file__).parent
        ignored = shutil.ignore_patterns("__pycache__", "profiles")
        shutil.copytree(source, directory / "qmrinspect", ignore=ignored)

    def put(self, name: str, text: str, behind: str = "") -> None:
        """Put text into a file, behind a line of it or at its end."""
        path = self._directory / "qmrinspect" / name
        old = path.read_text()
        place = old.index(behind) + len(behind) if behind else len(old)
        path.write_text(old[:place] + "\n" + text + old[place:])

    def create(self, name: str, text: str) -> None:
        """Write a file that was not there."""
        path = self._directory / "qmrinspect" / name
        assert not path.exists()
        path.write_text(text)

    def run(self, *arguments: object) -> str:
        """Run Python there."""
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self._directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path)


def test_a_rule_makes_a_recipe(package: Package) -> None:
    ask = (
        "-c",
        "from qmrinspect.hotplug.recipes import recipe_for\n"
        "r = recipe_for('mine')\n"
        "print(dict(r.properties), [b.property for b in r.backends], r.start_options)",
    )
    assert package.run(*ask) == "{} [] ()"
    rules = re.sub(r"Rule\('[\w-]+'", "Rule('mine'", entries(example("A recipe")))
    package.put("hotplug/catalogue.py", rules, "RULES: tuple[Rule, ...] = (")
    assert package.run(*ask) == "{'serial': '{id}'} ['memdev', 'drive'] ('memory',)"


def test_what_a_recipe_needs_at_the_start_is_known() -> None:
    named = {name for one in (*RULES, *NON_DEVICES.values()) for name in one.start_options}
    assert named <= {option.name for option in START_OPTIONS}


def test_adding_a_verb_takes_one_entry_and_one_function(package: Package, tmp_path: Path) -> None:
    snapshot = FakeMachine().snapshot()
    save(snapshot, tmp_path / "it.snap")
    package.put("verbs/table.py", entries(example("A verb")), "for verb in (")
    package.put("verbs/tree.py", example("A verb", 1))
    words = ("-m", "qmrinspect", "--snapshot", tmp_path / "it.snap", "count")
    assert package.run(*words) == f"{len(snapshot.objects)} objects"
    assert json.loads(package.run(*words, "--json"))["objects"] == len(snapshot.objects)
    shown = package.run("-m", "qmrinspect", "help", "count")
    assert "how many objects there are" in shown and "example: qmr count" in shown
    table = "from qmrinspect.verbs.table import VERBS; print(VERBS['count'].help)"
    assert package.run("-c", table) == "how many objects there are"


def test_adding_a_peer_takes_one_file_and_one_line(package: Package) -> None:
    package.create("peers/echo.py", example("A peer"))
    line = example("A peer", 1).strip().strip("{}")
    package.put("peers/__init__.py", line, "PEERS: dict[str, Callable[[], Peer]] = {")
    ask = (
        "import socket\n"
        "from qmrinspect.peers import open_peer\n"
        "peer = open_peer('echo')\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        "client.connect(peer.path)\n"
        "client.sendall(b'hello')\n"
        "print(client.recv(5).decode())\n"
        "peer.close()"
    )
    assert package.run("-c", ask) == "hello"


def test_a_peer_is_opened_by_its_kind_and_gives_its_names() -> None:
    assert "iscsi" in PEERS
    peer = open_peer("iscsi")
    try:
        assert peer.path.isdigit() and peer.names["target"].startswith("iqn.")
    finally:
        peer.close()
