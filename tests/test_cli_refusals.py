"""What the command line refuses, and how it says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Qmr, Ran

from qmrinspect.fronts.shell import cli
from qmrinspect.fronts.shell.table import EVERY
from qmrinspect.hotplug.vm import Vm


def _sentence(ran: Ran, code: int = 2) -> str:
    """Check the form of a refusal and return it: one line on stderr, nothing else."""
    assert ran.code == code
    assert ran.out == ""
    assert ran.err.startswith("qmr: ") and ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
    return ran.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["chek"], "did you mean check"),
        (["stock", "chek"], "did you mean check"),
        (["stock"], "say what to do"),
        ([], "no verb was given"),
        (["nobody", "check"], "no QEMU goes by the name nobody"),
        (["999999999", "check"], "there is no process 999999999"),
        (["--pid", "x", "check"], "--pid takes a number"),
        (["--pid", "1", "--core", "x", "check"], "both name a target"),
        (["--pid"], "--pid takes N"),
        (["--frob", "check"], "there is no option --frob"),
        (["stock", "refs", "nic"], "did you mean nic0"),
        (["stock", "refs", "0x10"], "no live object at 0x10"),
        (["stock", "refs"], "required: OBJ"),
        (["stock", "mtree", "memroy"], "did you mean memory or"),
        (["stock", "plug", "virtio-net-pcy"], "did you mean virtio-net-pci"),
        (["stock", "plug", "virtio-net-pci", "id=nic0"], "Duplicate device ID"),
        (["stock", "plug", "virtio-net-pci", "x"], "no assignment"),
        (["stock", "unplug", "pci.0"], "is no device"),
        (["stock", "qmp", "no-such-command"], "has not been found"),
        (["--qmp", "/nowhere.sock", "stock", "hmp", "info status"], "no monitor socket"),
        (["--snapshot", "/nowhere", "check"], "there is no snapshot"),
        (["--core", "/nowhere", "check"], "cannot be read"),
        (["diff", "/nowhere"], "there is no snapshot"),
    ],
)
def test_a_refusal_is_one_sentence(qmr: Qmr, stock_vm: Vm, words: list[str], says: str) -> None:
    assert says in _sentence(qmr(*words))


def test_another_program_is_no_qemu(qmr: Qmr) -> None:
    assert "is not a QEMU system emulator" in _sentence(qmr(os.getpid(), "check"))


def test_a_monitor_that_is_held(qmr: Qmr, stock_vm: Vm) -> None:
    with stock_vm.monitor():
        assert "held by another client" in _sentence(qmr("stock", "hmp", "info status"))
        # Reading memory needs no monitor.
        assert qmr("stock", "refs", "nic0").code == 0


def test_without_a_target_the_names_are_told(qmr: Qmr, stock_vm: Vm, fresh_vm: Vm) -> None:
    text = _sentence(qmr("check"))
    assert f"stock (pid {stock_vm.pid})" in text and f"fresh (pid {fresh_vm.pid})" in text
    # The monitor tells which one is meant.
    assert qmr("--qmp", stock_vm.qmp, "refs", "nic0").code == 0


def test_a_snapshot_has_no_monitor(qmr: Qmr, stock_vm: Vm, tmp_path: Path) -> None:
    file = tmp_path / "s"
    qmr("stock", "save", file)
    assert "running QEMU" in _sentence(qmr("--snapshot", file, "unplug", "nic0"))


def test_an_unexpected_failure_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setitem(EVERY, "ps", EVERY["ps"]._replace(run=fails))
    assert cli.main(["ps"]) == 3
    err = capsys.readouterr().err
    assert "--debug" in err and "Traceback" not in err
    assert cli.main(["ps", "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(EVERY, "ps", EVERY["ps"]._replace(run=interrupted))
    assert cli.main(["ps"]) == 130


def test_a_closed_pipe_is_no_failure(stock_vm: Vm) -> None:
    command = f"{sys.executable} -m qmrinspect stock mtree | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "address space" in done.stdout and done.stderr == ""
