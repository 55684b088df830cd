"""The command line as a new user meets it: terminals, targets, hints, files, exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import Qmr, Ran
from terminal import Terminal

from qmrinspect.fronts.shell.cli import main
from qmrinspect.hotplug.acknowledge import Acknowledged
from qmrinspect.hotplug.vm import Vm

pytestmark = pytest.mark.timeout(240)

QMR = [sys.executable, "-m", "qmrinspect"]


# Whose monitor it is -----------------------------------------------------------------


def test_a_monitor_of_another_qemu_is_refused(qmr: Qmr, stock_vm: Vm, leaky: Vm) -> None:
    for words in (["unplug", "nic0"], ["hmp", "info status"], ["hunt", "--yes", "e1000e"]):
        ran = qmr("--qmp", stock_vm.qmp, leaky.pid, *words)
        assert ran.code == 2 and "another QEMU's" in ran.err, ran
        assert str(stock_vm.pid) in ran.err
    assert qmr("--qmp", stock_vm.qmp, stock_vm.pid, "hmp", "info status").code == 0
    assert qmr(stock_vm.pid, "refs", "nic0").code == 0


def test_behind_a_proxy_the_threads_of_the_cpus_tell(
    qmr: Qmr, stock_vm: Vm, leaky: Vm, tmp_path: Path
) -> None:
    # SO_PEERCRED names the proxy, and TCP has none.
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        thread = threading.Thread(target=_forward, args=(server, stock_vm.qmp, 2), daemon=True)
        thread.start()
        assert qmr("--qmp", f"127.0.0.1:{port}", stock_vm.pid, "hmp", "info status").code == 0
        ran = qmr("--qmp", f"127.0.0.1:{port}", leaky.pid, "hmp", "info status")
        assert ran.code == 2 and "another QEMU's" in ran.err
        thread.join(10)


def _forward(server: socket.socket, path: str, times: int) -> None:
    for _ in range(times):
        client, _ = server.accept()
        with client, socket.socket(socket.AF_UNIX) as behind:
            behind.connect(path)
            back = threading.Thread(target=_copy, args=(behind, client), daemon=True)
            back.start()
            _copy(client, behind)
            behind.shutdown(socket.SHUT_RDWR)
            back.join(5)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while True:
            piece = source.recv(65536)
            if not piece:
                return
            sink.sendall(piece)
    except OSError:
        return


# Names and hints ---------------------------------------------------------------------


def test_the_device_that_is_there_has_the_name(qmr: Qmr, leaky: Vm) -> None:
    here = qmr(leaky.pid, "refs", "hda0")
    assert here.out.startswith("hda0 (bochs-display)") and "hda0@leaked" in here.out
    lost = qmr(leaky.pid, "refs", "hda0@leaked", "--json").json["object"]
    assert (lost["type"], lost["id"]) == ("intel-hda", "hda0")
    assert "hda0@leaked" in qmr(leaky.pid, "orphans").out
    ran = qmr(leaky.pid, "unplug", "hda0@leaked")
    assert ran.code == 2 and "leaked" in ran.err
    assert qmr(leaky.pid, "refs", "hda0").out.startswith("hda0 (bochs-display)")
    ran = qmr(leaky.pid, "refs", "nic0@leaked")
    assert ran.code == 2 and "hda0@leaked" in ran.err


def test_a_hint_can_be_typed_in_a_shell(qmr: Qmr, leaky: Vm) -> None:
    hints = []
    for words in (["why", "hda0@leaked"], ["why", "nic0"]):
        hints += re.findall(rf"\bqmr {leaky.pid} refs [^;\n]+", qmr(leaky.pid, *words).out)
    hints += re.findall(rf"qmr {leaky.pid} (?:tree --outside|orphans)", qmr(leaky.pid, "tree").out)
    assert len(hints) == 4
    for hint in hints:
        assert "<" not in hint
        done = subprocess.run(
            f"{sys.executable} -m qmrinspect {hint[4:]}", shell=True, capture_output=True, text=True
        )
        assert done.returncode in (0, 1), (hint, done.stderr)


def test_a_hint_in_the_repl_has_its_form(qmr: Qmr, leaky: Vm) -> None:
    ran = qmr(leaky.pid, "repl", "-c", "why hda0@leaked")
    assert "refs hda0@leaked" in ran.out and "qmr refs" not in ran.out


def test_target_and_verb_come_in_either_order(qmr: Qmr, stock_vm: Vm, leaky: Vm) -> None:
    wanted = qmr(stock_vm.pid, "refs", "nic0", "--json").json["object"]
    for words in (["refs", stock_vm.pid, "nic0"], ["refs", "nic0", stock_vm.pid]):
        assert qmr(*words, "--json").json["object"] == wanted
    assert qmr("policy", stock_vm.pid).code == 0
    assert qmr("hmp", stock_vm.pid, "info", "name").out.strip() == "stock"


# Secrets and files -------------------------------------------------------------------


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_of_a_vm_are_the_users_alone(qmr: Qmr, leaky: Vm, tmp_path: Path) -> None:
    os.umask(0o022)
    there = tmp_path / "there.html"
    there.touch(0o644)
    qmr(leaky.pid, "save", tmp_path / "snapshot.gz")
    qmr(leaky.pid, "report", "-o", there)
    qmr(leaky.pid, "graph", "nic0", "-o", tmp_path / "nic0.dot")
    qmr(leaky.pid, "layout", "--save", tmp_path / "layout")
    qmr(leaky.pid, "repl", "-c", f"refs nic0 > {tmp_path / 'refs'}")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5
    assert {path.name: oct(_mode(path)) for path in files} == dict.fromkeys(
        [path.name for path in files], "0o600"
    )


def test_a_history_keeps_no_secret(stock_vm: Vm, tmp_path: Path) -> None:
    with Terminal(stock_vm.pid, "repl", home=tmp_path) as terminal:
        terminal.wait("stock>")
        terminal.enter("object-add secret id=s0 data=hunter2")
        terminal.enter("hmp set_password vnc hunter3")
        terminal.enter("history")
        terminal.wait("history")
        terminal.enter("exit")
        terminal.ended()
    (file,) = (tmp_path / "state").rglob("history")
    text = file.read_text()
    assert "object-add secret" in text and "set_password" in text
    assert "hunter" not in text and _mode(file) == 0o600


@pytest.mark.parametrize(
    "words",
    [
        ["save", "{}"],
        ["report", "-o", "{}"],
        ["graph", "nic0", "-o", "{}"],
        ["layout", "--save", "{}"],
        ["hunt", "--yes", "e1000e", "--junit", "{}"],
    ],
)
def test_an_output_file_is_opened_before_the_work(qmr: Qmr, stock_vm: Vm, words: list[str]) -> None:
    # There is no such monitor and no such file: what is wrong with the file comes first.
    words = [word.format("/proc/nowhere/file") for word in words]
    ran = qmr("--pid", "1", *words)
    assert ran.code == 2 and "/proc/nowhere" in ran.err and "cannot be written" in ran.err


@pytest.mark.parametrize("option", ["--bundle", "--campaign", "--junit"])
def test_a_hunt_opens_what_it_writes_before_it_starts_a_qemu(qmr: Qmr, option: str) -> None:
    ran = qmr("hunt", "e1000e", "--qemu", "/proc/nowhere/qemu", option, "/proc/nowhere/file")
    assert ran.code == 2 and "/proc/nowhere/file cannot be written" in ran.err


def test_a_full_disk_ends_in_a_sentence(qmr: Qmr, saved: Path) -> None:
    with open("/dev/full", "w") as full:
        for words in (["--snapshot", str(saved), "tree"], ["--help"], ["help", "refs"], ["ps"]):
            done = subprocess.run([*QMR, *words], stdout=full, stderr=subprocess.PIPE, text=True)
            assert done.returncode == 2, words
            assert done.stderr.startswith("qmr: ") and "No space left" in done.stderr
            assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    for words in (["save", "/dev/full"], ["report", "-o", "/dev/full"]):
        ran = qmr("--snapshot", saved, *words)
        assert ran.code == 2 and "No space left" in ran.err and ran.err.count("\n") == 1
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


# Exit codes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["foo", "info foo", "device_del nobody", "stop 1", "device_add nope", "device_add"],
)
def test_hmp_with_an_error_ends_with_2(qmr: Qmr, stock_vm: Vm, line: str) -> None:
    ran = qmr(stock_vm.pid, "hmp", line)
    assert ran.code == 2 and ran.out
    assert qmr(stock_vm.pid, "hmp", "info version").code == 0


def test_diff_ends_like_diff(qmr: Qmr, leaky: Vm, saved: Path) -> None:
    assert qmr("diff", saved, saved).code == 0
    qmr(leaky.pid, "plug", "usb-tablet", "id=more", "bus=xhci0.0")
    ran = qmr(leaky.pid, "diff", saved, "--json")
    assert ran.code == 1 and ran.json["appeared"]


def test_a_hunt_that_was_only_refused_ends_with_2(qmr: Qmr) -> None:
    ran = qmr("hunt", "usb-tablet", "vfio-pci")
    assert ran.code == 0 and "1 clean" in ran.out and "1 refused" in ran.out
    ran = qmr("hunt", "vfio-pci", "--json")
    assert ran.code == 2 and "refused" in ran.err
    assert json.loads(ran.out.splitlines()[0])["outcome"] == "refused"


def test_an_unplug_that_nobody_acknowledges_ends_with_2(
    qmr: Qmr, fresh_vm: Vm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The VM does not run, and qmr does not act in the guest's place: the device stays plugged.
    monkeypatch.setattr(
        "qmrinspect.hotplug.unplug.acknowledge", lambda *_: Acknowledged("nobody", 0)
    )
    assert main([str(fresh_vm.pid), "unplug", "nic0"]) == 2
    assert "nic0 (virtio-net-pci): not-acked" in capsys.readouterr().out
    assert main([str(fresh_vm.pid), "unplug", "nic0", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["outcome"] == "not-acked"
    monkeypatch.undo()
    assert qmr(fresh_vm.pid, "unplug", "nic0").code == 0


# A hunt on somebody's VM -------------------------------------------------------------


def _refused(ran: Ran, *parts: str) -> None:
    assert ran.code == 2 and not ran.out, ran
    for part in parts:
        assert part in ran.err, ran.err


def test_a_hunt_on_a_vm_in_use_takes_no_option_that_it_ignores(qmr: Qmr, stock_vm: Vm) -> None:
    for option in (
        "--jobs=2",
        "--campaign=x",
        "--accel=kvm",
        "--machine=q35",
        "--qemu=x",
        "--cpus=all",
        "--dask=tcp://x",
        "--bundle=x",
    ):
        _refused(
            qmr(stock_vm.pid, "hunt", "e1000e", option), option.partition("=")[0], "VM that runs"
        )


def test_a_device_known_to_leak_wants_a_yes(qmr: Qmr, leaky: Vm, tmp_path: Path) -> None:
    _refused(qmr(leaky.pid, "hunt", "intel-hda"), "intel-hda", "--yes", "for good")
    with Terminal(leaky.pid, "hunt", "intel-hda", home=tmp_path) as terminal:
        terminal.wait("for good")
        terminal.enter("n")
        assert terminal.ended() == 2
    ran = qmr(leaky.pid, "hunt", "--yes", "intel-hda")
    assert ran.code == 1 and "leak" in ran.out and "stays" in ran.err
    # One that is not known to leak is hunted, and the warning is given all the same.
    ran = qmr(leaky.pid, "hunt", "e1000e")
    assert ran.code == 0 and "for good" in ran.err


# Words -------------------------------------------------------------------------------


def test_globs_and_near_names_of_drivers(qmr: Qmr, stock_vm: Vm) -> None:
    ran = qmr(stock_vm.pid, "hunt", "usb-mou*", "usb-k*d", "--json")
    assert [row.get("device") for row in map(json.loads, ran.out.splitlines())] == [
        "usb-mouse",
        "usb-kbd",
        None,
    ]
    _refused(qmr(stock_vm.pid, "hunt", "nothing-*"), "nothing-*")
    for words in ([stock_vm.pid, "hunt", "e1000x"], ["hunt", "e1000x"]):
        _refused(qmr(*words), "did you mean", "e1000e")


@pytest.mark.parametrize(
    "words",
    [
        ["tree", "--depth", "-1"],
        ["graph", "nic0", "--depth", "-1"],
        ["hunt", "--jobs", "0"],
        ["hunt", "--cycles", "0"],
        ["events", "--count", "0"],
        ["events", "--seconds", "-1"],
        ["trace", "nic0", "--for", "0"],
        ["refs", ""],
        ["show", ""],
        ["unplug", ""],
        ["plug", ""],
        ["save", ""],
        ["hmp", ""],
        ["--pid", "", "check"],
        ["--qmp", "", "hmp", "x"],
        ["", "check"],
    ],
)
def test_what_makes_no_sense_is_refused(qmr: Qmr, words: list[str]) -> None:
    ran = qmr(*words)
    assert ran.code == 2 and ran.err.count("\n") == 1 and not ran.out
    assert "no QEMU runs" not in ran.err and "QEMUs run here" not in ran.err, ran.err


def test_help_is_a_verb(qmr: Qmr) -> None:
    assert qmr("help").out == qmr("--help").out
    assert qmr("help", "refs").out == qmr("refs", "--help").out
    assert "did you mean refs" in qmr("help", "ref").err


@pytest.mark.parametrize("moment", ["imported", "begun"])
def test_an_interrupt_at_the_start_ends_in_a_sentence(moment: str) -> None:
    code = (
        "import os, signal, sys\n"
        "from qmrinspect.fronts.shell.entry import main\n"
        "def interrupt(*_):\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'qmrinspect.fronts.shell.cli':\n            interrupt()\n"
    )
    if moment == "imported":
        code += "sys.meta_path.insert(0, Finder())\n"
    else:
        code += "import qmrinspect.fronts.shell.cli as cli\ncli.repl_options = interrupt\n"
    code += "sys.argv = ['qmr', 'ps']\nsys.exit(main())\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert done.returncode == 130 and done.stderr.startswith("qmr: interrupted")


def test_an_interrupt_while_python_starts_ends_in_a_sentence(tmp_path: Path) -> None:
    # The command as make setup leaves it, and a Ctrl-C while Python looks for packages.
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "sitecustomize.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    )
    makefile = Path(__file__).resolve().parent.parent / "Makefile"
    launcher = re.search(r"^define LAUNCHER\n(.*?)^endef$", makefile.read_text(), re.M | re.S)
    assert launcher is not None
    command = tmp_path / "qmr"
    command.write_text(f"#!{sys.executable} -S\n{launcher[1]}")
    command.chmod(0o755)
    words, env = [command, "--version"], {**os.environ, "PYTHONPATH": str(packages)}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "qmr: interrupted before anything was done\n"
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("qmr ")


def test_an_interrupted_hunt_says_what_is_done_and_how_to_go_on(tmp_path: Path) -> None:
    file = tmp_path / "c.sqlite"
    words = [*QMR, "hunt", "usb-tablet", "e1000e", "--campaign", str(file), "--cycles", "2"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stderr is not None
        assert "usb-tablet" in run.stdout.readline()
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=40)
    assert run.returncode == 130 and "Traceback" not in err
    assert "1 of 2" in err and "same command" in err
    done = subprocess.run([*words[:-2], "--cycles", "2"], capture_output=True, text=True)
    assert "from before" in done.stdout
