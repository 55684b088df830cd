"""The REPL's parts: lines, typed arguments, events, completion, scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from qmrinspect.errors import MonitorError, UsageError
from qmrinspect.fronts.events import EventLog, SharedMonitor
from qmrinspect.fronts.repl.completion import LineCompleter
from qmrinspect.fronts.repl.engine import logical_lines
from qmrinspect.fronts.repl.history import open_history
from qmrinspect.fronts.repl.knowledge import Knowledge
from qmrinspect.fronts.repl.line import Command, expand, parse_command, unfinished
from qmrinspect.fronts.repl.session import ReplSession
from qmrinspect.fronts.repl.table import REPL_VERBS
from qmrinspect.hotplug.vm import Vm
from qmrinspect.masking import MASK
from qmrinspect.monitor.arguments import Property, Schema, typed_property
from qmrinspect.monitor.base import Event, EventQueue, Monitor, Wanted
from qmrinspect.monitor.qtree import parse_qtree
from qmrinspect.report import render

# Lines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("refs nic0", Command("refs nic0")),
        ("refs nic0 | grep a | wc -l", Command("refs nic0", pipe="grep a | wc -l")),
        ("check --json > out.json", Command("check --json", file="out.json")),
        ("check>>'my file'", Command("check", file="my file", append=True)),
        ("show /machine/it's | cat", Command("show /machine/it's", pipe="cat")),
        ("qmp x a='1 | 2'", Command("qmp x a='1 | 2'")),
        ('{"execute": "a > b | c"}', Command('{"execute": "a > b | c"}')),
    ],
)
def test_a_line_says_where_its_output_goes(line: str, command: Command) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize("line", ["check >", "check |", "| grep x", "> file"])
def test_an_output_that_goes_nowhere_is_refused(line: str) -> None:
    with pytest.raises(UsageError):
        parse_command(line)


def test_an_alias_stands_for_the_beginning_of_a_line() -> None:
    aliases = {"t": "tree --depth 1", "tt": "t /machine", "check": "check --json"}
    assert expand("tt --all", aliases) == "tree --depth 1 /machine --all"
    assert expand("check", aliases) == "check --json"
    assert expand("refs t", aliases) == "refs t"


def test_json_goes_on_until_it_is_whole() -> None:
    whole = '{"execute": "x",\n "arguments": {"a": "}"}}'
    assert unfinished(whole[:20]) and unfinished(whole[:-1]) and not unfinished(whole)
    assert not unfinished("refs nic0") and not unfinished('{"a": 1}}') and not unfinished("{x}")
    lines = ["check", *whole.splitlines(), "ps"]
    assert list(logical_lines(lines)) == [(1, "check"), (2, whole), (4, "ps")]


# Typed arguments -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema(stock_vm: Vm) -> Schema:
    with stock_vm.monitor() as monitor:
        entries: Any = monitor.execute("query-qmp-schema")
    return Schema(entries)


@pytest.mark.parametrize(
    ("command", "words", "typed"),
    [
        ("qom-get", "path=/machine property=1", {"path": "/machine", "property": "1"}),
        ("balloon", "value=0x10", {"value": 16}),
        ("balloon", "value=2M", {"value": 2 << 20}),
        ("set-action", "shutdown=pause", {"shutdown": "pause"}),
        ("screendump", "filename=1 head=0", {"filename": "1", "head": 0}),
        ("qom-list-types", "abstract=off", {"abstract": False}),
        (
            "blockdev-add",
            "driver=raw node-name=r file.driver=null-co file.size=1M",
            {"driver": "raw", "node-name": "r", "file": {"driver": "null-co", "size": 1 << 20}},
        ),
        ("blockdev-add", "driver=raw file=other", {"driver": "raw", "file": "other"}),
        (
            "object-add",
            "qom-type=memory-backend-ram id=1 size=4096",
            {"qom-type": "memory-backend-ram", "id": "1", "size": 4096},
        ),
        ("qom-set", "path=/x property=p value=on", {"path": "/x", "property": "p", "value": True}),
    ],
)
def test_arguments_get_the_types_that_qemu_wants(
    schema: Schema, command: str, words: str, typed: Mapping[str, Any]
) -> None:
    assert schema.typed(command, words.split()) == typed


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        ("qom-get", "path=/machine", "needs property="),
        ("qom-get", "pth=/machine", "did you mean path"),
        # No front but the REPL has help for a QMP command: what it takes is said at once.
        ("qom-get", "", "it takes path, property"),
        ("query-status", "a=1", "it takes no arguments"),
        ("balloon", "value=much", "takes a number"),
        ("set-action", "shutdown=explode", "one of poweroff, pause"),
        ("qom-get", "path", "is no assignment"),
        ("blockdev-add", "driver=raw file.drver=x", "has no member drver"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_sent(
    schema: Schema, command: str, words: str, says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        schema.typed(command, words.split())
    assert says in str(caught.value)


def test_properties_of_a_device_have_its_types(schema: Schema) -> None:
    known = {
        "msix": Property("msix", "bool"),
        "vectors": Property("vectors", "uint32"),
        "addr": Property("addr", "int32"),
        "serial": Property("serial", "str"),
    }
    words = "driver=x msix=off vectors=4 addr=6 serial=1 unknown=7".split()
    assert schema.typed("device_add", words, lambda kind: known) == {
        "driver": "x",
        "msix": False,
        "vectors": 4,
        "addr": "6",
        "serial": "1",
        "unknown": 7,
    }
    assert typed_property(known["vectors"], "many") == "many"


# Events ------------------------------------------------------------------------------------


class _Fake(Monitor):
    """A monitor whose events a test puts in."""

    address, version = "fake", ""

    def __init__(self) -> None:
        self.queue = EventQueue()

    def _exchange(self, command: str, *_: object) -> object:
        return {}

    def events(self) -> list[Event]:
        return self.queue.drain()

    def wait_event(self, wanted: Wanted, timeout: float) -> Event | None:
        return self.queue.wait(wanted, timeout)

    @property
    def dropped(self) -> int:
        return 0

    def close(self) -> None:
        self.queue.fail(MonitorError("closed"))


def test_a_verb_takes_an_event_and_the_session_sees_it_all_the_same() -> None:
    fake, log, lost = _Fake(), EventLog(), EventQueue()
    shared = SharedMonitor(fake, log.put, lost.fail)
    for name in ("STOP", "DEVICE_DELETED", "RESUME"):
        fake.queue.put(Event(name, {}, 0))
    found = shared.wait_event("DEVICE_DELETED", 5)
    assert found is not None
    assert shared.wait_event("RESUME", 5) is not None
    assert [event.name for event in log.last(9)] == ["STOP", "DEVICE_DELETED", "RESUME"]
    assert [event.name for event in shared.events()] == ["STOP"]
    fake.queue.fail(MonitorError("gone"))
    with pytest.raises(MonitorError):
        shared.wait_event("STOP", 5)
    with pytest.raises(MonitorError):
        lost.wait("NEVER", 5)


def test_events_are_filtered_by_patterns() -> None:
    log = EventLog()
    block, stop = Event("BLOCK_JOB_READY", {}, 0), Event("STOP", {}, 0)
    assert log.is_shown(block) and log.is_shown(stop)
    log.hidden = ("block_*",)
    assert not log.is_shown(block) and log.is_shown(stop)
    log.put(block)
    log.put(stop)
    assert log.last(5, ["BLOCK_*"]) == [block]


# Completion ------------------------------------------------------------------------------


def test_a_full_slot_is_no_place_for_a_device() -> None:
    text = (
        'bus: main-system-bus\r\n  type System\r\n  dev: q35-pcihost, id ""\r\n'
        "    bus: pcie.0\r\n      type PCIE\r\n"
        '      dev: pcie-root-port, id "rp0"\r\n'
        '        bus: rp0\r\n          type PCIE\r\n          dev: nvme, id "n"\r\n'
        '      dev: pcie-root-port, id "rp1"\r\n'
        "        bus: rp1\r\n          type PCIE\r\n"
    )
    buses = {bus.name: bus for bus in parse_qtree(text)}
    assert buses["pcie.0"].devices == 2 and buses["pcie.0"].owner == "q35-pcihost"
    assert buses["rp0"].full and not buses["rp1"].full and not buses["pcie.0"].full


def test_without_a_vm_there_are_verbs_and_nothing_else() -> None:
    session = ReplSession(lambda text, look: None, lambda: None, lambda vm, event: None)
    completer = LineCompleter(session, Knowledge(lambda: None), REPL_VERBS)
    assert {"refs", "report"} <= {*completer.complete("re").candidates}
    assert completer.complete("refs ").candidates == []
    assert completer.complete("check --js").candidates == ["--json"]
    session.marks["m1"] = None  # type: ignore[assignment]
    assert completer.complete("diff m").candidates == ["m1"]
    assert completer.complete("tree --nosuch x").candidates == []


# What is printed -------------------------------------------------------------------------


def test_the_last_guard_lets_nothing_but_colours_through() -> None:
    try:
        render.use_style(render.Style(True, 80))
        red = "\033[1;31mbad\033[0m"
        assert render.safe(red) == red
        assert render.safe("a\033]0;x\007b\nc\x9b2J") == "a\\x1b]0;x\\x07b\\nc\\x9b2J"
        render.use_style(render.Style(False, None))
        assert render.safe(red) == "\\x1b[1;31mbad\\x1b[0m"
    finally:
        render.use_style(None)


# Scripts -----------------------------------------------------------------------------------


def _script(text: str, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qmrinspect", *map(str, words)],
        input=text,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_a_file_of_commands_is_a_script(stock_vm: Vm, tmp_path: Path) -> None:
    file = tmp_path / "nic"
    ran = _script(
        f"# comment\nalias r refs\nr nic0 | head -1\n\nr nic0 > {file}\n"
        '{"execute": "qom-get",\n "arguments": {"path": "/machine/peripheral/nic0",\n'
        '  "property": "type"}}\nmark a\ndiff a\nexit\nnever reached\n',
        stock_vm.pid,
        "repl",
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("nic0 (virtio-net-pci) has")
    assert lines[1] == '"virtio-net-pci"'
    assert lines[-1].startswith("the two instants are the same")
    assert file.read_text().splitlines()[0] == lines[0]


def test_commands_of_the_command_line_end_at_the_first_failure(stock_vm: Vm) -> None:
    ran = _script("", stock_vm.pid, "repl", "-c", "info status", "-c", "chek", "-c", "info kvm")
    assert ran.returncode == 2
    assert ran.stdout.startswith("VM status")
    assert "kvm support" not in ran.stdout
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("qmr: line 2: there is no verb and no QMP command chek: did")


def test_a_script_may_attach_and_a_snapshot_will_do(stock_vm: Vm, tmp_path: Path) -> None:
    file = tmp_path / "s.gz"
    ran = _script(
        f"attach stock\nsave {file}\ndetach\nattach --snapshot {file}\nrefs nic0\n", "repl"
    )
    assert ran.returncode == 0, ran.stderr
    assert "nic0 (virtio-net-pci) has" in ran.stdout
    held = _script("info status\n", "--snapshot", file, "repl")
    assert held.returncode == 2 and "needs a running QEMU" in held.stderr


def test_findings_set_the_exit_code(fresh_vm: Vm) -> None:
    ran = _script("plug intel-hda id=h\nunplug h\ninfo status\n", fresh_vm.pid, "repl")
    assert ran.returncode == 1 and "VM status" in ran.stdout


@pytest.mark.parametrize("evil", ["e\x1b[31mvil\x1b]0;owned\x07\n\x9b2Jx", "n" * 10_000])
def test_a_name_is_data_on_the_command_line(evil: str) -> None:
    device = json.dumps({"driver": "virtio-rng-pci", "id": evil})
    with Vm(extra=("-device", device)) as vm:
        for verb in (
            "tree --all",
            "mtree",
            "check",
            "refs peripheral",
            "cycles",
            "graph rng",
            "ps",
            "hmp info-qtree",
            "refs nosuch",
            "orphans",
            "policy",
            "layout",
        ):
            words = [word.replace("info-", "info ") for word in verb.split()]
            ran = _script("", vm.pid, *words)
            for text in (ran.stdout, ran.stderr):
                assert not set(text) & set("\x1b\x07\x9b"), verb
                assert "n" * 4500 not in text, verb


def test_verbs_of_the_session_say_where_they_belong() -> None:
    ran = _script("", "mark", "x")
    assert ran.returncode == 2
    assert ran.stderr == (
        "qmr: mark makes no sense on the command line: use it in the REPL (qmr repl)\n"
    )


@pytest.mark.unit
def test_a_history_on_a_full_disk_lasts_as_long_as_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    history = open_history()
    (tmp_path / "qmr" / "history").unlink()
    (tmp_path / "qmr" / "history").symlink_to("/dev/full")
    history.append_string("set_password vnc hunter2")
    assert history.get_strings() == [f"set_password vnc {MASK}"]
