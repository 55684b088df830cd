"""Several commands in a line, names for answers, and habits of other prompts; Python."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from make_golden import GOLDEN

from qmrinspect.errors import UsageError
from qmrinspect.fronts.repl.line import unfinished
from qmrinspect.fronts.repl.statements import assigned, habit, object_of, statements
from qmrinspect.fronts.repl.table import REPL_VERBS
from qmrinspect.hotplug.vm import Vm
from qmrinspect.monitor.base import Event
from qmrinspect.verbs.monitor import run_events

unit = pytest.mark.unit
LEAKED = str(GOLDEN / "stock-7.2-unplugged.jsonl.gz")


@unit
@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("check; policy", ["check", "policy"]),
        (" check ;; policy;", ["check", "policy"]),
        ("qmp x a='1;2'; check", ["qmp x a='1;2'", "check"]),
        ('{"execute": "a;b"}', ['{"execute": "a;b"}']),
        ("refs a | (cat; cat); check", ["refs a | (cat; cat)", "check"]),
        ("show /machine/it's; check", ["show /machine/it's", "check"]),
        ("# a; b", ["# a; b"]),
        ("", []),
    ],
)
def test_semicolons_part_commands(line: str, parts: list[str]) -> None:
    assert statements(line) == parts


@unit
def test_an_answer_gets_a_name() -> None:
    assert assigned("x = refs nic0", REPL_VERBS) == ("x", "refs nic0")
    assert assigned("x=check | head", REPL_VERBS) == ("x", "check | head")
    # A QMP command's arguments, an alias, a comparison are none.
    for text in ("device_add driver=e1000e", "refs a", "x == y", "alias t=tree", "hmp=1"):
        assert assigned(text, REPL_VERBS) == (None, text)


@unit
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("?", "help"),
        ("refs?", "help refs"),
        ("?refs", "help refs"),
        ("refs??", "help refs"),
        ("help()", "help"),
        ("quit()", "exit"),
        ("q", "exit"),
        ("%hist", "history"),
        ("ls /machine", "tree /machine"),
        ("device_add e1000e,help", "plug e1000e help"),
        ("device_add driver=e1000e help", "plug e1000e help"),
        ("device_add driver=e1000e id=help1", "device_add driver=e1000e id=help1"),
        ("refs nic0", "refs nic0"),
        ("query-status", "query-status"),
    ],
)
def test_what_other_prompts_take_is_understood(typed: str, meant: str) -> None:
    assert habit(typed, REPL_VERBS) == meant


@unit
@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("print(x)", "--python"),
        ("prog['current_machine']", "--python"),
        ("import os", "--python"),
        ("for o in objects: pass", "--python"),
        ("%load_ext x", "!COMMAND"),
        ("clear", "Ctrl-L"),
    ],
)
def test_what_is_nothing_here_says_what_does_it(typed: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        habit(typed, REPL_VERBS)
    assert says in str(error.value)


@unit
def test_an_answer_is_about_an_object() -> None:
    assert object_of({"object": {"address": "0x1"}}) == "0x1"
    assert object_of({"format": "qmr-plug/1", "path": "/machine/x", "appeared": []}) == "/machine/x"
    assert object_of({"orphans": [{"object": {"address": "0x2"}}]}) == "0x2"
    assert object_of({"findings": []}) is object_of(None) is object_of([]) is None


@unit
def test_json_arguments_go_on_in_the_next_line() -> None:
    assert unfinished('device_add {"driver":')
    assert unfinished('plug e1000e {"id":')
    assert not unfinished('device_add {"driver": "e1000e"}')


def run(text: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qmrinspect", *words],
        input=text,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_answers_are_named_shown_again_and_used() -> None:
    done = run(
        "# the first one\norphans; refs _\nx = refs peripheral\nwhy x | head -1\n_ --json\nx\n"
        "diff x _\n!echo shell\n%time refs peripheral\nrefs?\nexit\nnever\n",
        *("--snapshot", LEAKED, "repl"),
    )
    assert done.stderr == ""
    assert done.returncode == 1  # orphans found some
    out = done.stdout
    # The first orphan is what refs is asked about.
    assert re.search(r"^bochs-display dut1 <0x\w+> has 3 references, all explained$", out, re.M)
    assert len(re.findall(r"^/machine/peripheral \(container\) has 1 reference", out, re.M)) == 3
    assert "/machine/peripheral (container) is reachable from a root" in out
    assert '"format": "qmr-why/1"' in out
    assert "the two instants are the same" in out
    assert "\nshell\n" in out
    assert re.search(r"^took 0\.\d+ s$", out, re.M)
    assert "usage: refs" in out


def test_nothing_follows_a_command_that_fails() -> None:
    done = run("nosuch; refs peripheral\n", "--snapshot", LEAKED, "repl")
    assert done.returncode == 2
    assert done.stdout == ""
    for line in ("_", "why _", "x y", "%time"):
        done = run(line + "\n", "--snapshot", LEAKED, "repl")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


def test_a_driver_says_what_it_takes_and_takes_json(fresh_vm: Vm) -> None:
    done = run(
        'plug e1000e help | grep -c mac\nplug e1000e {"id": "j0", "mac": "52:54:00:12:34:99"}\n'
        'qom-get {"path": "/machine/peripheral/j0",\n "property": "mac"}\n'
        "events\nevents --count 1 --seconds 0.1\n",
        *(str(fresh_vm.pid), "repl"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "1"
    assert '"52:54:00:12:34:99"' in lines
    assert any(line.startswith("those to come are shown as they come") for line in lines)
    shell = run("", str(fresh_vm.pid), "plug", "e1000e", '{"id": "j1"}')
    assert shell.stdout.startswith("j1 (e1000e) is plugged")
    shell = run("", str(fresh_vm.pid), "plug", '{"driver": "e1000e", "id": "j2"}')
    assert shell.stdout.startswith("j2 (e1000e) is plugged")
    shell = run(
        "", str(fresh_vm.pid), "plug", "e1000e,id=j3,mac=52:54:00:12:34:98", "multifunction=on"
    )
    assert shell.stdout.startswith("j3 (e1000e) is plugged")
    shell = run("", str(fresh_vm.pid), "plug", "e1000e,id=j4,romfile=/no,,such")
    assert (shell.returncode, shell.stdout) == (2, "") and "/no,such" in shell.stderr
    wrong = run("", str(fresh_vm.pid), "plug", '{"id": "j3"}')
    assert (wrong.returncode, wrong.stdout) == (2, "") and "no driver" in wrong.stderr
    wrong = run("", str(fresh_vm.pid), "qmp", "qom-get", '{"path": }')
    assert (wrong.returncode, wrong.stdout) == (2, "") and "no JSON" in wrong.stderr


def python(*commands: str, text: str = "") -> subprocess.CompletedProcess[str]:
    words = [word for command in commands for word in ("-c", command)]
    return run(text, "--snapshot", LEAKED, "repl", "--python", *words)


@pytest.fixture(scope="module")
def answer() -> Iterator[subprocess.CompletedProcess[str]]:
    yield python(
        "def count(): return len(snapshot.objects)",
        "print(count(), len(findings), findings[0].kind)",
        "o = obj('/machine/peripheral'); print(o.type, o.ref == book.expected(o.address))",
        "print([r.kind for r in refs(o)], [r.kind for r in refs(o.address)])",
        "print(sorted({x.type for x in of_type('pci-host-bridge')}))",
        "print(again() is reading)",
    )


def test_a_reading_is_python_objects(answer: subprocess.CompletedProcess[str]) -> None:
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.splitlines() == [
        "332 6 orphan",
        "container True",
        "['child'] ['child']",
        "['i440FX-pcihost']",
        "True",
    ]


def test_a_python_program_fails_as_python_does() -> None:
    done = python("1 / 0")
    assert done.returncode == 2 and "ZeroDivisionError" in done.stderr
    assert python("raise SystemExit(7)").returncode == 7
    wrong = python("obj('nosuch')")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("qmr: there is no object nosuch")
    assert python(text="print(len(findings))").stdout == "6\n"


def test_the_python_prompt_completes_and_complains_in_a_sentence() -> None:
    words = ["-m", "qmrinspect", "--snapshot", LEAKED, "repl", "--python"]
    child = pexpect.spawn(sys.executable, words, encoding="utf-8", timeout=20)
    try:
        child.expect_exact("<reading of 332 objects, 6 findings>")
        child.expect_exact(">>> ")
        child.send("len(findi\t)\r")
        child.expect_exact("6")
        child.expect_exact(">>> ")
        child.sendline("snapshot")
        child.expect(r"\.\.\. and \d+ characters more")
        child.expect_exact(">>> ")
        child.sendline("obj('nosuch')")
        child.expect_exact("there is no object nosuch")
        child.expect_exact(">>> ")
        assert "Traceback" not in child.before
        child.sendeof()
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)
    assert child.exitstatus == 0


def test_python_examples_are_five() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "python.md").read_text()
    assert len(re.findall(r"^## ", page, re.M)) == 5


@unit
def test_events_says_what_it_waits_for() -> None:
    class Waiting:
        """A session whose monitor announces one event."""

        def __init__(self) -> None:
            self.said: list[str] = []
            self.asked = 0

        def progress(self, text: str | None) -> None:
            self.said.append(text)

        def monitor(self) -> Waiting:
            return self

        def wait_event(self, wanted: object, timeout: float) -> Event | None:
            self.asked += 1
            time.sleep(0.1 * (self.asked > 1))
            return Event("RESET", {}, 0) if self.asked == 1 else None

    def waited(**more: object) -> list[str]:
        session = Waiting()
        args = argparse.Namespace(**{"seconds": None, "count": None, **more})
        outcome = run_events(session, args)  # type: ignore[arg-type]
        assert len([line for line in outcome.lines if "RESET" in line]) == 1
        return session.said

    said = waited(count=2, seconds=0.2)
    assert said[0] == "waiting for 2 events of QEMU, 0.2 s at most"
    assert "1 so far" in said[2]
    assert said[-1] is None
    assert waited(count=1)[0] == "waiting for 1 event of QEMU, Ctrl-C ends it"
    session, nothing = Waiting(), argparse.Namespace(seconds=0.1, count=None)
    session.asked = 1
    lines = list(run_events(session, nothing).lines)  # type: ignore[arg-type]
    assert lines == ["no event came in 0.1 s"]
