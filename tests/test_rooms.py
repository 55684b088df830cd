"""The rooms of the package: who may import whom, and what is imported when."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from qmrinspect.hotplug.catalogue import RULES
from qmrinspect.hotplug.nondevices import NON_DEVICES
from qmrinspect.peers import PEERS

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "qmrinspect"

#: From the ground up; a room knows only those before it.
ROOMS = (
    *("tuples", "errors", "documents", "text", "masking", "outfile", "closing", "spawn", "target"),
    *("references", "layout", "snapshot", "index", "heap", "records", "walk", "search"),
    *(
        "strict",
        "infer",
        "ledger",
        "audit",
        "stops",
        "instants",
        "earlier",
        "fitting",
        "reading",
        "stacks",
    ),
    *("trace", "store", "monitor", "peers", "hotplug", "hunt", "campaign", "report", "pages"),
    *("verbs", "fronts", "fronts.repl", "fronts.shell", "fronts.gdb"),
    "__main__",
)
#: What runs on any GDB's Python.
GROUND = ROOMS[: ROOMS.index("monitor")]
LINES_MAX = 3500
FILE_LINES_MAX = 400
#: Longer files, each with the one thing that it does.
LONG = {
    "qmrinspect/verbs/table.py": "one table: every verb and what it takes",
    "tests/fakeimage.py": "writes the memory of a fake, one structure after the other",
    "tests/fakes.py": "one class: a machine and what QEMU does with references",
    "tests/scenarios.py": "one table: each kind of reference as the only explanation",
    "tests/test_layout_sources.py": "where a layout comes from, each source once",
}


class Import(NamedTuple):
    module: str
    target: str
    top: bool


def _modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    found[""] = found.pop("__init__")
    return found


MODULES = _modules()
TREES = {module: ast.parse(path.read_text()) for module, path in MODULES.items()}
STATEMENTS = {
    module: [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom, ast.Call))]
    for module, tree in TREES.items()
}


def room(module: str) -> str:
    parts = module.split(".")
    own = parts[0] == "fronts" and (PACKAGE / "fronts" / ".".join(parts[1:2])).is_dir()
    return ".".join(parts[: 2 if own else 1])


def _targets(module: str, node: ast.AST) -> Iterator[str]:
    """Yield the modules of the package that a statement imports."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("later", "_run"):
        # later(__package__, module, function), as the tables of the verbs have it.
        names = [a.value for a in node.args if isinstance(a, ast.Constant)]
        if len(names) == 2:
            yield f"{module.rpartition('.')[0]}.{names[0]}"
    if not isinstance(node, ast.ImportFrom):
        return
    if node.level:
        parts = module.split(".")
        up = node.level - (MODULES[module].name == "__init__.py")
        full = ".".join([*parts[: len(parts) - up], *([node.module] if node.module else [])])
    elif (node.module or "").split(".")[0] == "qmrinspect":
        full = (node.module or "").partition(".")[2]
    else:
        return
    for alias in node.names:
        inner = f"{full}.{alias.name}".strip(".")
        yield inner if inner in MODULES else full


def _imports() -> list[Import]:
    found = []
    for module, tree in TREES.items():
        top = {id(node) for node in tree.body}
        for node in STATEMENTS[module]:
            found += [Import(module, t, id(node) in top) for t in _targets(module, node)]
    return found


IMPORTS = _imports()


def test_every_import_goes_down() -> None:
    up = [
        f"{one.module} imports {one.target}"
        for one in IMPORTS
        if one.target
        and room(one.module) != room(one.target)
        and ROOMS.index(room(one.module)) <= ROOMS.index(room(one.target))
    ]
    assert up == []


def test_every_room_is_known() -> None:
    assert {room(module) for module in MODULES if module} == set(ROOMS)


def test_the_page_of_rooms_names_them_all() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {name.split(".")[0] for name in ROOMS} - {"__main__"}
    assert sorted(name for name in rooms if not re.search(rf"\b{name}\b", page)) == []


def test_no_modules_import_each_other() -> None:
    below: dict[str, set[str]] = {module: set() for module in MODULES}
    for one in IMPORTS:
        if one.target and one.target != one.module:
            below[one.module].add(one.target)
    # What imports nothing that is left is taken away, until nothing can be.
    while True:
        free = {module for module, targets in below.items() if not targets & below.keys()}
        if not free:
            break
        below = {module: targets for module, targets in below.items() if module not in free}
    # What is left is a circle, or above one.
    assert sorted(below) == []


def test_no_room_is_too_large() -> None:
    lines: dict[str, int] = {}
    for module, path in MODULES.items():
        lines[room(module)] = lines.get(room(module), 0) + len(path.read_text().splitlines())
    assert {name: n for name, n in lines.items() if n > LINES_MAX} == {}


def test_a_file_is_short_or_does_one_thing() -> None:
    folders = ("qmrinspect", "gdb", "tests", "tools")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    long = {
        str(path.relative_to(ROOT))
        for path in files
        if len(path.read_text().splitlines()) > FILE_LINES_MAX
    }
    # What is short again has no excuse to keep.
    assert long == set(LONG)


def test_what_is_public_says_what_it_does() -> None:
    silent = []
    for module, tree in TREES.items():
        for node in tree.body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                silent.append(f"{module}.{node.name}")
    assert silent == []


def test_only_the_front_in_gdb_and_the_script_for_gdb_import_it() -> None:
    users = set()
    for module, statements in STATEMENTS.items():
        for node in statements:
            if isinstance(node, ast.Import) and any(
                a.name.split(".")[0] == "gdb" for a in node.names
            ):
                users.add(module)
    assert {user for user in users if room(user) != "fronts.gdb"} == {"layout.gdb_types"}


#: Where JSON comes in or goes out upstairs: settings and jobs, and what workers say.
JSON_BORDER = {"campaign.worker", "hunt.settings"}


def test_upstairs_any_is_for_json_alone() -> None:
    users = {
        module
        for module, statements in STATEMENTS.items()
        if room(module).partition(".")[0] in ("hotplug", "hunt", "campaign", "pages", "fronts")
        for node in statements
        if isinstance(node, ast.ImportFrom) and any(a.name == "Any" for a in node.names)
    }
    assert users == JSON_BORDER


def test_an_outcome_or_a_step_is_compared_with_a_member() -> None:
    """A word that is none of them would be equal to none, and nobody would know."""
    found = [
        f"{module}:{node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Attribute)
        and node.left.attr in ("outcome", "step")
        for compared in node.comparators
        if any(isinstance(part, ast.Constant) for part in ast.walk(compared))
    ]
    assert found == []


def _is_no_value(node: ast.AST | None) -> bool:
    """Whether an expression is a text or a number that can only mean that nothing is there."""
    if isinstance(node, ast.IfExp):
        return _is_no_value(node.body) or _is_no_value(node.orelse)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return isinstance(node.operand, ast.Constant)
    return isinstance(node, ast.Constant) and node.value == ""


def _is_zero(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float) and not node.value


def _is_zero_for_none(node: ast.AST) -> bool:
    """Whether an expression is 0 where something else is not there."""
    if isinstance(node, ast.IfExp):
        return any(_is_zero(way) or _is_zero_for_none(way) for way in (node.body, node.orelse))
    if isinstance(node, ast.BoolOp):
        return isinstance(node.op, ast.Or) and _is_zero(node.values[-1])
    # As of dict.get(name, 0).
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Attribute) and called.attr == "get" and _is_zero(node.args[-1])


STACKS = ROOMS.index("stacks")
#: Where 0 is a number like any other.
ZERO_COUNTS = {
    "fronts.repl.vm": "how many devices leaked, how many findings are errors",
    "fronts.shell.cli": "the exit code of a SystemExit that has none",
    "hotplug.unplug": "seconds to wait",
    "peers.iscsi": "a SCSI status: GOOD",
    "stacks.cfi": "an offset; of a rule that has none nobody asks it",
    "trace.match": "a rank: the best",
    "trace.tree": "how many references were taken and dropped",
}


def _returns(node: ast.AST) -> Iterator[ast.Return]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Return):
            yield child
        elif not isinstance(child, ast.FunctionDef):
            yield from _returns(child)


def _nothing_as_text(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield defaults, fields and answers that mean that nothing is there."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for node in (node for place in (tree, *classes) for node in place.body):
        values: list[ast.AST | None] = []
        if isinstance(node, ast.FunctionDef):
            values += [*node.args.defaults, *node.args.kw_defaults]
            # A part of a sentence may well be empty; what others call returns no parts.
            public = not node.name.startswith("_")
            values += [found.value for found in _returns(node) if public]
        elif isinstance(node, ast.AnnAssign):
            values.append(node.value)
        yield from (value for value in values if value is not None and _is_no_value(value))


def _nothing_as_zero(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield fields and defaults that are 0, and answers that are 0 where nothing is there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            defaults = [*node.args.defaults, *node.args.kw_defaults]
            yield from (value for value in defaults if value is not None and _is_zero(value))
            for found in _returns(node):
                if found.value is not None and _is_zero_for_none(found.value):
                    yield found
        elif isinstance(node, ast.AnnAssign) and node.value is not None and _is_zero(node.value):
            yield node


def test_upstairs_what_is_not_there_is_none() -> None:
    upstairs = [name for name in MODULES if name and ROOMS.index(room(name)) >= STACKS]
    found = [
        f"{MODULES[module].relative_to(ROOT)}:{node.lineno}"
        for module in upstairs
        for node in _nothing_as_text(TREES[module])
    ]
    assert found == []
    zeros = {module for module in upstairs if any(_nothing_as_zero(TREES[module]))}
    assert zeros == set(ZERO_COUNTS)


def test_a_recipe_knows_a_peer_by_its_kind_alone() -> None:
    data = {
        f"hotplug.{name}" for name in ("backends", "blocks", "catalogue", "kinds", "nondevices")
    }
    known = {one.target for one in IMPORTS if one.module in {*data, "hotplug.recipes"}}
    assert {room(target) for target in known} == {"hotplug"}
    everyone = [backend for rule in RULES for backend in rule.backends]
    everyone += [backend for one in NON_DEVICES.values() for backend in one.backends]
    kinds = {backend.peer for backend in everyone} - {None}
    assert kinds and kinds <= set(PEERS)


def test_the_ground_floor_needs_the_standard_library_only() -> None:
    foreign = []
    for module, statements in STATEMENTS.items():
        if room(module) not in GROUND or module == "layout.gdb_types":
            continue
        for node in statements:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            foreign += [
                f"{module}: {name}"
                for name in names
                if name.split(".")[0] not in {*sys.stdlib_module_names, "qmrinspect"}
            ]
    assert foreign == []


def _loaded(code: str) -> set[str]:
    program = f"import sys; {code}; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.splitlines())


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_what_says_what_there_is_imports_nothing_that_works(option: str) -> None:
    # Time is noisy; what costs it is what is imported.
    loaded = _loaded(f"from qmrinspect.fronts.shell.cli import main; main(['{option}'])")
    own = {name for name in loaded if name.startswith("qmrinspect.")}
    rooms = {room(name.partition(".")[2]) for name in own}
    wanted = {"tuples", "errors", "text", "report", "verbs"}
    assert {name for name in rooms if not name.startswith("fronts")} <= wanted
    assert len(own) < 25
    assert not loaded & {"asyncio", "socket", "subprocess", "sqlite3", "dataclasses", "qemu"}


def test_a_verb_that_reads_needs_no_monitor_and_no_peer() -> None:
    loaded = _loaded("import qmrinspect.verbs.check, qmrinspect.verbs.refs, qmrinspect.verbs.tree")
    rooms = {room(name.partition(".")[2]) for name in loaded if name.startswith("qmrinspect.")}
    assert not rooms & {"monitor", "peers", "hotplug", "hunt"}
