"""The declarations of what holds references."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import qmrinspect
from qmrinspect.layout import load
from qmrinspect.layout.find import profiles
from qmrinspect.layout.schema import SCHEMA
from qmrinspect.references import HOLDERS, KINDS, Around, OfListener, Reader, Variable
from qmrinspect.references.record import Step, fields_of, parse, ways_of
from qmrinspect.walk.readers import READERS
from qmrinspect.walk.shapes import SHAPES

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"

#: Structures that no shipped profile has, and why.
IN_NO_PROFILE = {
    "PCIDivaSerialState": "came with QEMU 10.1 and is built for hppa alone",
}


def test_every_declared_structure_is_in_a_profile_that_ships() -> None:
    """Else its rows never fire on a stripped QEMU."""
    shipped: dict[str, set[str]] = {}
    for path in profiles():
        for name, struct in load(path, path.stem).structs.items():
            shipped.setdefault(name, set()).update(struct.fields)
    missing = {name for name in SCHEMA if name not in shipped}
    assert missing == set(IN_NO_PROFILE)
    unknown = [
        f"{struct}.{field}"
        for struct, fields in SCHEMA.items()
        for field in fields.split()
        if struct in shipped and field not in shipped[struct]
    ]
    assert unknown == []


def test_declarations_hold_together() -> None:
    kinds = {kind.name for kind in KINDS}
    assert len(kinds) == len(KINDS)
    assert {holder.kind for holder in HOLDERS} == kinds
    named = {holder.start.name for holder in HOLDERS if isinstance(holder.start, Reader)}
    assert named == set(READERS)
    assert {h.start.shape for h in HOLDERS if isinstance(h.start, Around)} == set(SHAPES)
    for holder in HOLDERS:
        assert re.match(r"\S+\.[ch]\b", holder.source), f"{holder} names no source of QEMU"
        assert holder.way or isinstance(holder.start, (Reader, Variable))
        assert fields_of(holder) or isinstance(holder.start, Variable)
        for struct, names, _ in fields_of(holder):
            assert struct in SCHEMA and set(names) <= set(SCHEMA[struct].split())


def test_a_way_is_parsed() -> None:
    assert parse("A.b ->[9 B while B.c + C.d] + B.e") == (
        Step("+", "A", ("b",)),
        Step("->[]", "B", (), "9", "B.c + C.d"),
        Step("+", "B", ("e",)),
    )
    assert parse("A.b -> C.d|e list F.g + F.h ->[A.n I] + I.j [4]") == (
        Step("+", "A", ("b",)),
        Step("->", "C", ("d", "e")),
        Step("list", "F", ("g",)),
        Step("+", "F", ("h",)),
        Step("->[]", "I", (), "A.n"),
        Step("+", "I", ("j",)),
        Step("[]", "", (), "4"),
    )
    assert ways_of("A.{b,c} -> D.{e,f}") == [
        f"A.{a} -> D.{b}" for a in ("b", "c") for b in ("e", "f")
    ]


@pytest.mark.parametrize("way", ("A", "A.b C.d", "A.b => C.d", "A.b ->[x y z]", "A.b + [n]"))
def test_what_is_no_way_is_refused(way: str) -> None:
    with pytest.raises(ValueError, match="is no way"):
        parse(way)


def test_adding_a_kind_takes_one_file(tmp_path: Path) -> None:
    """The module of docs/extending.md, in a package that lacks it, is all that it takes."""
    text = (ROOT / "docs" / "extending.md").read_text()
    module = re.search(r"`qmrinspect/references/(\w+)\.py`:\n\n```python\n(.*?)```", text, re.S)
    assert module is not None
    package = tmp_path / "qmrinspect"
    source = Path(qmrinspect.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    added = package / "references" / f"{module[1]}.py"
    program = """
import sys
from fakes import FakeMachine
from qmrinspect.audit import check
from qmrinspect.layout.schema import SCHEMA
machine = FakeMachine()
machine.know("PCIProxyDev", ioc=0x300)
machine.define("x-pci-proxy-dev", "pci-device", 0x400)
channel = machine.new("qio-channel-socket")
proxy = machine.device("proxy0", "x-pci-proxy-dev")
machine.poke("PCIProxyDev", proxy.address, ioc=channel.address)
report = check(machine.snapshot())
print("PCIProxyDev" in SCHEMA, [f.kind for f in report.findings],
      [(e.kind, e.field) for e in report.book.on.get(channel.address, ())])
"""

    def run() -> str:
        return subprocess.run(
            [sys.executable, "-S", "-c", program],
            cwd=tmp_path,
            env={"PYTHONPATH": f"{tmp_path}:{TESTS}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    added.unlink()
    assert run() == "False ['unexplained'] []"
    added.write_text(module[2])
    assert run() == "True [] [('proxy-channel', 'PCIProxyDev.ioc')]"


def test_what_starts_at_a_listener_needs_what_it_is_found_by() -> None:
    """A QEMU whose listeners, or their names, cannot be read was not searched for these."""
    starts = [holder for holder in HOLDERS if isinstance(holder.start, OfListener)]
    assert starts
    for holder in starts:
        rested = fields_of(holder)
        assert ("MemoryListener", ("name",), True) in rested
        assert ("MemoryListener", ("link_as",), True) in rested
        assert ("AddressSpace", ("listeners",), True) in rested
