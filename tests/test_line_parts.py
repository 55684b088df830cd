"""Tables, secrets, names and files of the command line, without a QEMU."""

from __future__ import annotations

import argparse
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qmrinspect.campaign import jobs
from qmrinspect.campaign.candidates import fitting
from qmrinspect.errors import QmrError, TargetError, UsageError
from qmrinspect.fronts.hints import typed
from qmrinspect.fronts.options import Options
from qmrinspect.fronts.session import ShellSession
from qmrinspect.fronts.shell import cli
from qmrinspect.hotplug.kinds import Recipe
from qmrinspect.hotplug.plugging import _device_add
from qmrinspect.hunt.bundle import _script
from qmrinspect.masking import MASK, masked, masked_message, masked_words
from qmrinspect.monitor import whose
from qmrinspect.monitor.base import CommandError, Event
from qmrinspect.monitor.connecting import check_greeting
from qmrinspect.monitor.processes import Running
from qmrinspect.monitor.readable import judge
from qmrinspect.outfile import probe, write
from qmrinspect.report import render
from qmrinspect.verbs.monitor import event_json, event_line
from qmrinspect.verbs.table import VERBS
from qmrinspect.verbs.verb import parser_for

pytestmark = pytest.mark.unit

# Tables ------------------------------------------------------------------------------

_HEAD = ("kind", "count", "holder", "field", "address")
_ROWS = [
    render.Row(
        (
            "address-space-root",
            "12",
            "address space bochs-display in /machine/peripheral/hda0",
            'MemoryRegion.subregions "bochs dispi interface", "qemu extended regs", "edid"',
            "0x562c54b40e70",
        )
    ),
    render.Row(("child", "1", "/machine/peripheral", 'child "hda0"', "0x562c54b40e70")),
]


def _table(width: int, wide: bool = False) -> list[str]:
    render.use_style(render.Style(False, width))
    try:
        return list(render.fitted(render.table(_HEAD, _ROWS, right=(1,)), wide))
    finally:
        render.use_style(None)


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 100, 120, 140, 160, 200])
def test_a_table_fits_and_loses_nothing_but_addresses(width: int) -> None:
    lines = _table(width)
    text = "".join(re.sub(r"\s", "", line) for line in lines)
    assert "…" not in text
    assert max(map(len, lines)) <= max(width, 30)
    if width >= 60:
        for row in _ROWS:
            for word in re.findall(r"[A-Za-z-]+", " ".join(row.cells[:4])):
                assert any(word in line for line in lines), word
    assert ("--wide" in text) == ("0x562c54b40e70" not in text)
    assert ("0x562c54b40e70" in text) == (width >= 180)


def test_wide_is_whole_whatever_the_terminal() -> None:
    lines = _table(60, wide=True)
    assert len(lines) == 3 and all(cell in lines[1] for cell in _ROWS[0].cells)


def test_sentences_break_between_words() -> None:
    text = "  its container holds two of its own subregions, and each takes a reference on it"
    render.use_style(render.Style(True, 30))
    try:
        lines = list(render.fitted([render.paint(text, "error"), "x" * 50]))
    finally:
        render.use_style(None)
    plain = [re.sub(r"\033\[[0-9;]*m", "", line) for line in lines]
    assert plain.pop() == "x" * 50
    assert all(len(line) <= 30 for line in plain) and len(plain) > 2
    assert " ".join(line.strip() for line in plain) == text.strip()
    assert all(line.startswith("    ") for line in plain[1:])


def test_a_progress_line_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        text = ""

        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            return 2

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            pass

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd=1: os.terminal_size((20, 20)))
    monkeypatch.setenv("TERM", "xterm")
    session = ShellSession(Options())
    session.progress("1 of 3 done, about a very long time left")
    assert terminal.text == "\r\033[K1 of 3 done, about "
    with session.above():
        assert terminal.text.endswith("\r\033[K")
    monkeypatch.setenv("TERM", "dumb")
    terminal.text = ""
    session.progress("2 of 3")
    assert not terminal.text


# Secrets -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "object-add qom-type=secret id=s0 data=hunter2",
        "object_add secret,id=s0,data=hunter2",
        "object_add secret,data=hunter2,id=s0",
        "qmp object-add qom-type=secret id=s0 'data=hunter2 hunter2'",
        '{"execute": "object-add", "arguments": {"qom-type": "secret", "data": "hunter2"}}',
        "set_password vnc hunter2",
        "hmp set_password spice hunter2 keep",
        "set_password protocol=vnc password=hunter2",
        '{"execute":"set_password","arguments":{"protocol":"vnc","password":"hunter2"}}',
        "change vnc password hunter2",
        "change vnc hunter2",
        "change-vnc-password password=hunter2",
        "block_passwd ide0 hunter2",
        "blockdev-add driver=iscsi node-name=x portal=h user=me password=hunter2 lun=0",
        "blockdev-add driver=https url=https://me:hunter2@host/x node-name=x",
        "drive_add 0 if=none,file=iscsi://me%hunter2@host/iqn/0",
        "netdev_add l2tpv3,id=n0,src=a,dst=b,rxsession=1,txcookie=hunter2",
        "chardev-add spice,password=hunter2",
        'qom-set path=/objects/s0 property=data value="hunter2"',
        "qom-set /objects/s0 data hunter2",
        "plug usb-u2f user=hunter1 key=hunter2",
        'human-monitor-command command-line="set_password vnc hunter2"',
        "{'execute': 'object-add', 'arguments': {'qom-type': 'secret', 'data': 'hunter2'}}",
        r'blockdev-add {"file": "json:{\"driver\":\"https\",\"password\": \"hunter2\"}"}',
        "object_add secret,id=s0,data=two hunter2",
        'hmp "object_add secret,id=s0,data=two hunter2"',
        '{"command-line": "object_add secret,id=s0,data=two hunter2"}',
        "drive_add 0 if=none,file=rbd:pool/image:id=me:key=hunter2",
        'qom-set {"path": "/objects/s0", "property": "data", "value": "hunter2"}',
        """qom-set {'path': '/objects/s0', 'property': 'tls-password', 'value': 'hunter2'}""",
    ],
)
def test_a_line_keeps_no_secret(line: str) -> None:
    shown = masked(line)
    assert "hunter2" not in shown and MASK in shown
    assert shown.count("hunter1") == line.count("hunter1")


@pytest.mark.parametrize(
    "line",
    [
        "plug virtio-net-pci id=nic0 mac=52:54:00:12:34:56",
        "blockdev-add driver=luks key-secret=s0 node-name=x file=y",
        "refs /machine/peripheral/nic0",
        "sendkey ctrl-alt-delete",
        "qmp send-key keys=...",
        "hmp info mtree -f",
        "-vnc :1,password=on",
        "netdev_add user,id=n0,hostfwd=tcp::2222-:22",
        "object_add rng-random,id=rng0,filename=/dev/urandom",
        """qom-set {"path": "/machine/x", "property": "realized", "value": "true"}""",
        'object_add secret,id=s0,file="/run/two words" | head',
    ],
)
def test_what_is_no_secret_stays(line: str) -> None:
    assert masked(line) == line


def test_a_command_line_and_a_message_keep_no_secret() -> None:
    words = [
        "qemu",
        "-object",
        "secret,id=s0,data=two hunters",
        "-spice",
        "port=1,password=hunt,,er",
    ]
    assert masked_words(words) == [
        "qemu",
        "-object",
        f"secret,id=s0,data={MASK}",
        "-spice",
        f"port=1,password={MASK}",
    ]
    message = {
        "execute": "object-add",
        "arguments": {"qom-type": "secret", "id": "s0", "props": {"data": "hunter2"}},
    }
    assert "hunter2" not in str(masked_message(message))
    line = {"execute": "human-monitor-command", "arguments": {"command-line": "change vnc hunter2"}}
    assert "hunter2" not in str(masked_message(line))
    blocks = {
        "encrypt": {"format": "luks", "key-secret": "s0"},
        "server": [{"password": "hunter2"}],
    }
    assert masked_message(blocks)["encrypt"] == blocks["encrypt"]
    assert "hunter2" not in str(masked_message(blocks))


def test_a_script_that_reproduces_has_no_secret() -> None:
    row = {"device": "x", "outcome": "leak", "causes": [], "text": ""}
    add = {"execute": "object-add", "arguments": {"qom-type": "secret", "data": "hunter2"}}
    script = _script(row, ["qemu"], [masked_message(add)], ())
    assert "object-add" in script and "hunter2" not in script


# Files -------------------------------------------------------------------------------


def test_a_file_is_the_users_alone_and_opened_before(tmp_path: Path) -> None:
    file = tmp_path / "report"
    probe(file, "")
    assert not file.exists()
    file.touch(0o644)
    file.write_text("old")
    probe(file)
    assert file.read_text() == "old"
    write(file, "new")
    assert file.read_text() == "new" and stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(TargetError, match="cannot be written"):
        probe(tmp_path / "nowhere" / "file")
    with pytest.raises(TargetError, match="No space left"):
        write("/dev/full", "x")


# Words -------------------------------------------------------------------------------


def test_patterns_mean_devices() -> None:
    hunted = ["e1000", "e1000e", "virtio-blk-pci", "virtio-net-pci", "object:secret"]
    found = fitting(["virtio-*", "e1000e", "virtio-net-pci", "object:s*"], hunted, ["alias"])
    assert found == ["virtio-blk-pci", "virtio-net-pci", "e1000e", "object:secret"]
    assert fitting(["alias"], hunted, ["alias"]) == ["alias"]
    with pytest.raises(UsageError, match=r"fits the pattern q\*"):
        fitting(["q*"], hunted, ())
    with pytest.raises(UsageError, match="did you mean e1000"):
        fitting(["e1000x"], hunted, ())


def test_a_hint_has_the_form_of_its_front() -> None:
    text = "7 more: qmr refs nic0; see qmr ps, or qmr hunt x; qmr TARGET check"
    assert typed(text, "gdb") == text
    assert typed(text, "repl") == "7 more: refs nic0; see ps, or hunt x; qmr TARGET check"
    assert typed(text, "shell") == text
    assert typed(text, "shell", "'my vm'") == (
        "7 more: qmr 'my vm' refs nic0; see qmr ps, or qmr hunt x; qmr TARGET check"
    )


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_no_verb_takes_an_empty_argument(verb: str) -> None:
    parser = parser_for(VERBS[verb])
    for words in ([""], [" "], ["--title="]):
        with pytest.raises(QmrError, match="empty"):
            parser.parse_args(words)


def test_what_ended_meanwhile_is_not_listed() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as lives:
        try:
            ended = subprocess.Popen([sys.executable, "-c", ""])
            ended.wait()
            # Neither is a QEMU; only the one that lives is told as such.
            one, other = (Running(p.pid, "x", "pc", "", (), None, None) for p in (ended, lives))
            ((process, verdict),) = judge([one, other])
        finally:
            lives.kill()
    assert process.pid == lives.pid and verdict.refused


@pytest.mark.parametrize(
    ("argv", "name", "uuid", "wanted"),
    [
        (["qemu", "-name", "a"], "a", None, True),
        (["qemu", "-name", "guest=a,debug-threads=on"], "a", None, True),
        (["qemu", "-name", "a"], "b", None, False),
        (["qemu", "-name", "a"], "", None, False),
        (["qemu"], "b", None, False),
        (["qemu"], "", None, None),
        (["qemu", "-name", "a", "-uuid", "AB"], "a", "ab", True),
        (["qemu", "-name", "a", "-uuid", "AB"], "a", "cd", False),
    ],
)
def test_name_and_uuid_tell_whose_a_monitor_is(
    argv: list[str], name: str, uuid: str | None, wanted: bool | None
) -> None:
    class Answers:
        def execute(self, command: str) -> object:
            if command == "query-name":
                return {"name": name} if name else {}
            return {"UUID": uuid or "00000000-0000-0000-0000-000000000000"}

    assert whose._goes_by(Answers(), argv) is wanted  # type: ignore[arg-type]


def test_what_a_qemu_does_not_say_is_none() -> None:
    known = Event.from_message({"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}})
    assert known.timestamp_us == 1_000_002 and known.clock().endswith(":01.000002")
    # Both are -1 where the host's clock fails.
    for stamp in ({"seconds": -1, "microseconds": -1}, {}, None):
        event = Event.from_message({"event": "STOP", "timestamp": stamp})
        assert event.timestamp_us is None
        assert event_line(event) == "? STOP"
        assert event_json(event)["timestamp_us"] == 0
    version = {"qemu": {"major": 9, "minor": 1, "micro": 0}}
    assert check_greeting({"QMP": {"version": version}}, "x") == "9.1.0"
    assert check_greeting({"QMP": {"version": {"package": ""}}}, "x") is None
    assert check_greeting({"QMP": {}}, "x") is None


def test_verbs_that_report_take_wide() -> None:
    for verb in VERBS.values():
        args: argparse.Namespace = parser_for(verb).parse_known_args(["x", "y"])[0]
        assert hasattr(args, "wide") == verb.reports


class _Refusing:
    """A monitor of a QEMU of which only a port takes a device."""

    def __init__(self) -> None:
        self.tried: list[object] = []

    def execute(self, command: str, arguments: Any = None, timeout: float = 0) -> object:
        if command == "query-pci":
            return [{"devices": [{"qdev_id": "rp0", "pci_bridge": {"devices": []}}]}]
        self.tried.append(arguments.get("bus"))
        if arguments.get("bus") != "rp0":
            raise CommandError(command, "GenericError", "it does not support hotplugging")
        return {}


def test_a_bus_that_is_named_is_the_one_that_is_tried() -> None:
    monitor: Any = _Refusing()
    _device_add(monitor, Recipe("e1000e", "PCI", {}), {}, None, ())
    with pytest.raises(CommandError, match="does not support hotplugging"):
        _device_add(monitor, Recipe("e1000e", "PCI", {}), {"bus": "pcie.0"}, None, ())
    assert monitor.tried == [None, "rp0", "pcie.0"]


def test_a_hunt_that_is_interrupted_while_it_plans_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "plan", interrupt)
    assert cli.main(["hunt", "usb-kbd"]) == 130
    out, err = capfd.readouterr()
    assert (out, err) == (
        "",
        "qmr: interrupted: nothing was done yet; the same command begins anew\n",
    )
