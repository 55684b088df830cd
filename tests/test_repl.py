"""The REPL in a real terminal, on the distribution's own QEMU."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import Terminal

from qmrinspect.fronts.repl import start as repl
from qmrinspect.fronts.shell import cli
from qmrinspect.hotplug.vm import Vm
from qmrinspect.monitor import processes

DELETE_LINE = "\x15"  # Ctrl-U
CTRL_C, CTRL_D, CTRL_R = "\x03", "\x04", "\x12"


@pytest.fixture
def terminal(fresh_vm: Vm, tmp_path: Path) -> Iterator[Terminal]:
    """Return a REPL on a VM of its own, with its monitor connected."""
    with Terminal(fresh_vm.pid, "repl", home=tmp_path) as terminal:
        attached(terminal)
        yield terminal


def attached(terminal: Terminal) -> None:
    """Wait until the session has a VM and its monitor has said how it is."""
    terminal.wait(lambda t: "fresh" in t.bar and "prelaunch" in t.bar, "the VM in the status bar")


def answered(terminal: Terminal, line: str, pattern: str) -> re.Match[str]:
    """Type a line and wait for an answer below it."""
    terminal.enter(line)
    found: list[re.Match[str]] = []

    def there(t: Terminal) -> bool:
        text = t.text
        match = re.search(pattern, text[text.rfind(f"> {line}") :], re.M)
        found[:] = [match] if match else []
        return bool(match)

    terminal.wait(there, f"{pattern!r} below {line!r}")
    return found[0]


# Typing ------------------------------------------------------------------------------


def test_a_device_id_is_completed(terminal: Terminal) -> None:
    terminal.type("refs ni\t")
    terminal.wait("refs nic0")
    terminal.enter()
    terminal.wait("nic0 (virtio-net-pci) has")


def test_commands_arguments_drivers_and_values_are_completed(terminal: Terminal) -> None:
    # Both sides of what is waited for have been typed by then, so that Tab is what filled in.
    terminal.type("device_a\t")
    terminal.wait(lambda t: t.lines and "device_add" in t.text)
    terminal.type(" dri\t")
    terminal.wait("device_add driver=")
    terminal.type("e1000e\t")
    terminal.type(" msi")
    terminal.type(DELETE_LINE + "qom-get path=/machine/peripheral/ta\t")
    terminal.wait("path=/machine/peripheral/tab0")
    terminal.type(" property=hotpl\t")
    terminal.wait("property=hotplugg")
    terminal.type(DELETE_LINE + "set-action shutdown=pa\t")
    terminal.wait("set-action shutdown=pause")
    terminal.type(DELETE_LINE + "device_add driver=usb-tablet bus=xh\t")
    terminal.wait("bus=xhci0.0")


def test_completion_reads_no_memory(terminal: Terminal) -> None:
    terminal.type("refs \t")
    terminal.wait("xhci0")
    terminal.wait(lambda terminal: "no reading yet" in terminal.bar, "the bar says so")


def test_long_json_is_pasted_over_lines(terminal: Terminal) -> None:
    filler = {f"key{n}": "x" * 60 for n in range(100)}
    message = {"execute": "qom-get", "arguments": {"path": "/machine", "property": "type"}}
    pasted = json.dumps({**message, "id": filler}, indent=1)
    assert len(pasted) > 7000
    terminal.type(f"\033[200~{pasted}\033[201~")
    terminal.wait('"key99"')
    terminal.enter()
    terminal.wait("pc-i440fx")


def test_it_greets_in_two_lines(terminal: Terminal) -> None:
    terminal.wait(lambda t: "check looks for leaks" in t.text, "the greeting")
    lines = [line for line in terminal.lines if line.strip()]
    first = next(n for n, line in enumerate(lines) if line.startswith("qmr 0."))
    assert re.search(r"on fresh \(pid \d+\)", lines[first])
    assert "check looks for leaks" in lines[first + 1] and "help" in lines[first + 1]


def test_pasted_lines_run_one_by_one(terminal: Terminal) -> None:
    terminal.type("\033[200~info kvm\n\nrefs nic0; policy\n# a comment\ninfo status\033[201~")
    terminal.wait("info status")
    terminal.enter()
    terminal.wait("VM status")
    text = terminal.text
    answers = ("> info kvm", "kvm support", "> refs nic0; policy", "nic0 (virtio-net-pci) has")
    answers += ("policy owner-ref", "> info status", "VM status")
    at = text.rfind("> info kvm")
    assert at > text.find("info status")
    for answer in answers:
        at = text.find(answer, at)
        assert at >= 0, answer


def test_json_without_its_end_goes_on_in_the_next_line(terminal: Terminal) -> None:
    terminal.enter('{"execute": "qom-get",')
    terminal.enter(' "arguments": {"path": "/machine", "property": "type"}}')
    terminal.wait("pc-i440fx")


def test_history_is_searched_and_kept(fresh_vm: Vm, tmp_path: Path) -> None:
    with Terminal(fresh_vm.pid, "repl", home=tmp_path) as terminal:
        attached(terminal)
        answered(terminal, "info kvm", "^kvm support")
        terminal.type(CTRL_D)
        assert terminal.ended() == 0
    with Terminal(fresh_vm.pid, "repl", home=tmp_path) as terminal:
        attached(terminal)
        terminal.type(CTRL_R + "kvm")
        terminal.wait(lambda t: "info kvm" in t.text, "the line of the last session")
        terminal.enter()
        terminal.enter()
        terminal.wait("kvm support")


# The main job --------------------------------------------------------------------------


def test_a_leak_is_plugged_announced_explained_and_compared(terminal: Terminal) -> None:
    answered(terminal, "mark before", r"^before: this instant, \d+ objects")
    answered(terminal, "plug virtio-rng-pci id=rng7", r"^rng7 .* is plugged on .* appeared")
    answered(terminal, "unplug rng7", r"^rng7 \(virtio-rng-pci\): clean")
    terminal.wait(lambda t: bool(re.search(r'DEVICE_DELETED.*"rng7"', t.text)), "the event")
    answered(terminal, "plug intel-hda id=hda7", r"^hda7 .* appeared")
    answered(terminal, "unplug hda7", r"^hda7 \(intel-hda\): leak, ")
    terminal.wait("same-owner-subregions")
    terminal.wait(lambda t: " 6 leaked | " in t.bar and " error" in t.bar, "the status bar")
    found = answered(terminal, "orphans", r"^intel-hda (?:hda7 )?<(0x[0-9a-f]+)>")
    answered(terminal, f"why {found.group(1)}", "in a cycle of references that nothing breaks")
    answered(terminal, "diff before", r"^\d+ objects appeared, 0 gone")
    terminal.wait(lambda t: bool(re.search(r"\+ +intel-hda", t.text)), "the leaked device")


def test_a_watched_count_is_told_when_it_changes(terminal: Terminal) -> None:
    first = answered(terminal, "watch pci.0", r"^\S*pci\.0 has (\d+) references; every change")
    count = int(first.group(1))
    answered(terminal, "device_add driver=virtio-rng-pci id=w1", r"^\{\}")
    terminal.wait(f"{count} -> {count + 1} references")


def test_output_goes_through_the_shell_and_into_files(terminal: Terminal, tmp_path: Path) -> None:
    kinds = answered(terminal, "refs nic0 | grep -c subregion", r"^(\d+)$")
    assert int(kinds.group(1)) >= 2
    file = tmp_path / "refs.json"
    answered(terminal, f"refs nic0 --json > {file}", r"^fresh> ?$")
    terminal.wait(lambda t: file.exists() and file.read_text().endswith("}\n"), "the file")
    assert json.loads(file.read_text())["object"]["id"] == "nic0"


def test_aliases_and_the_startup_file(fresh_vm: Vm, tmp_path: Path) -> None:
    file = tmp_path / "config" / "qmr" / "replrc"
    file.parent.mkdir(parents=True)
    file.write_text("alias whatis qom-get property=type\nnonsense\nalias s info status\n")
    with Terminal(fresh_vm.pid, "repl", home=tmp_path) as terminal:
        attached(terminal)
        terminal.wait("replrc, line 2: there is no verb")
        answered(terminal, "whatis path=/machine/peripheral/nic0", '^"virtio-net-pci"')


def test_events_are_listed_and_filtered(terminal: Terminal) -> None:
    answered(terminal, "cont", r"^\{\}")
    terminal.wait(lambda t: "running" in t.bar, "the run state")
    terminal.wait("RESUME")
    answered(terminal, "events --hide STOP,RESUME", "not STOP RESUME")
    answered(terminal, "stop", r"^\{\}")
    terminal.wait(lambda t: "paused" in t.bar, "the run state")
    shown = terminal.text.count("STOP\n")
    answered(terminal, "events STOP", r"^\d\d:\d\d:\d\d\.\d{6} STOP")
    assert shown == 0


def test_help_has_examples(terminal: Terminal) -> None:
    answered(terminal, "help refs", r"^example: refs nic0")
    answered(terminal, "help device_add", r"driver +needed +str")
    answered(terminal, "help chek", "did you mean check")
    answered(terminal, "device_add drivr=e1000e", "did you mean driver")


# What can go wrong ---------------------------------------------------------------------


def test_a_killed_vm_is_told_and_its_last_reading_stays(terminal: Terminal, fresh_vm: Vm) -> None:
    answered(terminal, "mark one", "^one: this instant")
    os.kill(fresh_vm.pid, signal.SIGKILL)
    terminal.wait("has ended: it crashed or was killed")
    terminal.wait(lambda t: "ended" in t.bar, "the status bar")
    answered(terminal, "refs nic0", r"^nic0 \(virtio-net-pci\) has")
    answered(terminal, "diff one", "^the two instants are the same")
    answered(terminal, "query-status", "has ended")
    terminal.type(CTRL_D)
    assert terminal.ended() == 0


def test_a_vm_that_shuts_down_is_no_crash(terminal: Terminal, fresh_vm: Vm) -> None:
    os.kill(fresh_vm.pid, signal.SIGTERM)
    terminal.wait("has ended: it shut down (host-signal)")
    terminal.wait("SHUTDOWN")


def test_ctrl_c_cancels_the_command_and_not_the_session(terminal: Terminal, fresh_vm: Vm) -> None:
    terminal.enter("events --seconds 1000")
    terminal.wait(lambda t: "Ctrl-C cancels" in t.bar, "the running command")
    terminal.type("typed meanwhile" + CTRL_C)
    terminal.wait("cancelled: events --seconds 1000")
    terminal.wait("> typed meanwhile")
    terminal.type(DELETE_LINE)
    terminal.enter("check")
    terminal.wait("> check")
    terminal.type(CTRL_C)
    answered(terminal, "refs nic0", "^nic0 .* all explained")
    status = Path(f"/proc/{fresh_vm.pid}/status").read_text()
    assert re.search(r"^TracerPid:\s+0$", status, re.M)
    assert not re.search(r"^State:\s+[tT]", status, re.M)


def test_ctrl_c_right_behind_a_command_ends_no_session(terminal: Terminal) -> None:
    # Now and then it comes while one prompt has ended and the next has not begun.
    for number in range(30):
        terminal.enter(f"help refs # {number}")
        terminal.wait(f"refs # {number}")
        terminal.type(CTRL_C)
    terminal.type(DELETE_LINE)
    answered(terminal, "refs nic0", "^nic0 .* all explained")


def test_a_held_monitor_is_told_and_memory_is_read(fresh_vm: Vm, tmp_path: Path) -> None:
    with fresh_vm.monitor(), Terminal(fresh_vm.pid, "repl", home=tmp_path) as terminal:
        terminal.wait("is held by another client")
        terminal.wait(lambda t: "memory only" in t.bar, "the status bar")
        answered(terminal, "refs nic0", "^nic0 .* all explained")
        answered(terminal, "info status", "is held by another client")


def test_several_vms_without_leaving(terminal: Terminal, fresh_vm: Vm, stock_vm: Vm) -> None:
    answered(terminal, "ps", rf"^ *{stock_vm.pid} +stock")
    answered(terminal, "mark here", "^here: this")
    answered(terminal, "attach stock", rf"^attached to stock \(pid {stock_vm.pid}\)")
    terminal.wait(lambda t: t.bar.startswith("stock"), "the status bar")
    answered(terminal, "diff here", "different processes")
    answered(terminal, "detach", "^detached from stock")
    answered(terminal, "check", "not attached to a VM")
    answered(terminal, f"attach {fresh_vm.pid}", "^attached to fresh")
    answered(terminal, "attach nobody", "no QEMU goes by the name nobody")
    terminal.wait(lambda t: t.bar.startswith("fresh"), "the status bar")


def test_the_screen_stays_whole_when_its_size_changes(terminal: Terminal) -> None:
    answered(terminal, "refs nic0", "all explained")
    terminal.type("refs xhc")
    terminal.resize(24, 70)
    terminal.wait(lambda t: t.bar.startswith("fresh"), "the status bar")
    terminal.type("i0")
    terminal.wait("> refs xhci0")
    terminal.enter()
    terminal.wait("xhci0 (qemu-xhci) has")
    rows = [line for line in terminal.screen.display if re.match(r"  subregion ", line)]
    assert rows and all(len(line.rstrip()) <= 70 for line in rows)


@pytest.mark.parametrize("evil", ["e\x1b[31mvil\x1b]0;owned\x07\n\x9b2Jx", "n" * 10_000])
def test_a_name_is_data(evil: str, tmp_path: Path) -> None:
    device = json.dumps({"driver": "virtio-rng-pci", "id": evil})
    with (
        Vm(extra=("-device", device, "-name", "evil")) as vm,
        Terminal(vm.pid, "repl", home=tmp_path) as terminal,
    ):
        terminal.wait(lambda t: "prelaunch" in t.bar, "the status bar")
        answered(terminal, "tree /machine/peripheral", r"virtio-rng-pci|nnnn")
        if len(evil) < 100:
            # JSON has a name as a whole, and escapes it by itself.
            terminal.enter("tree /machine/peripheral --json")
            terminal.enter("qom-list path=/machine/peripheral")
        terminal.enter("info qtree")
        terminal.type("refs \t" + DELETE_LINE)
        answered(terminal, "check", "^nothing found")
        terminal.type(CTRL_D)
        assert terminal.ended() == 0
        for bad in ("\x1b[31mvil", "\x1b]0;owned", "\x07", "\x9b", "n" * 4500):
            assert bad not in terminal.raw.replace("\r\n", "")
        assert "owned" not in terminal.screen.title


def test_a_long_answer_goes_to_a_pager(fresh_vm: Vm, tmp_path: Path) -> None:
    env = {"QMR_PAGER": "less", "LESS": ""}
    with Terminal(fresh_vm.pid, "repl", home=tmp_path, env=env) as terminal:
        attached(terminal)
        terminal.enter("tree --all")
        terminal.wait(lambda t: t.screen.display[-1].startswith(":"), "the pager's prompt")
        assert terminal.screen.display[0].startswith("object")
        terminal.type("q")
        terminal.wait(lambda t: "owner-ref" in t.bar, "the status bar")
        answered(terminal, "refs nic0", "all explained")


@pytest.mark.parametrize(("count", "opens"), [(0, False), (1, True), (2, False)])
def test_qmr_alone_opens_it_on_the_one_that_runs(
    monkeypatch: pytest.MonkeyPatch, count: int, opens: bool
) -> None:
    started: list[object] = []
    monkeypatch.setattr(processes, "running", lambda: [object()] * count)
    monkeypatch.setattr(repl, "start", lambda *words: started.append(words) or 0)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    assert cli.main([]) == (0 if opens else 2)
    assert bool(started) is opens
