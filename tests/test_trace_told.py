"""What a trace tells: why the kernel refuses, what the ledger denies, and pictures."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Qmr
from gdbtool import debug_qemu
from test_trace_code import SOURCE

from qmrinspect.audit import choose
from qmrinspect.errors import TargetError
from qmrinspect.hotplug.vm import Vm
from qmrinspect.index import Index
from qmrinspect.ledger.book import Book
from qmrinspect.reading import Reader
from qmrinspect.report import traces
from qmrinspect.stacks.arch import arch_of
from qmrinspect.stacks.code import Code
from qmrinspect.target.process import Process
from qmrinspect.trace import refusal
from qmrinspect.trace.match import balance
from qmrinspect.trace.perf import Probe, Tracer
from qmrinspect.trace.sites import new_sites
from qmrinspect.trace.tracing import tracing_of


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    with Vm() as started:
        yield started


# Refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "user", "owner", "paranoid", "text", "hint"),
    [
        (errno.EACCES, 1000, 0, 2, "it belongs to uid 0", "CAP_PERFMON and CAP_SYS_PTRACE"),
        (errno.EACCES, 1000, 1000, 3, "perf_event_paranoid is 3", "perf_event_paranoid=2"),
        (errno.EPERM, 1000, 1000, 2, "Operation not permitted", "run qmr as root"),
        (errno.EPERM, 0, 0, 4, "although qmr runs as root", "lockdown"),
        (errno.ENOENT, 1000, 1000, 2, "no breakpoints for perf_event_open", "HAVE_HW_BREAKPOINT"),
        (errno.ENOSPC, 1000, 1000, 2, "all breakpoints of the processor are in use", "delete its"),
        (errno.EMFILE, 1000, 1000, 2, "Too many open files", "the limit of open files"),
    ],
)
def test_each_refusal_names_what_helps(
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    user: int,
    owner: int,
    paranoid: int,
    text: str,
    hint: str,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(refusal, "owner", lambda pid: owner)
    monkeypatch.setattr(refusal, "setting", lambda name: paranoid)
    monkeypatch.setattr(refusal, "_filtered", lambda: False)
    error = refusal.refused(1234, code)
    assert text in str(error) and hint in str(error.hint)


#: seccomp(2), as containers have it: perf_event_open (298 on x86-64) fails with EPERM.
_FILTER = struct.pack(
    "<" + "HBBI" * 4,
    *(0x20, 0, 0, 0),  # the number of the system call
    *(0x15, 0, 1, 298),
    *(0x06, 0, 0, 0x50000 | errno.EPERM),
    *(0x06, 0, 0, 0x7FFF0000),
)
_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2


def test_a_seccomp_filter_is_told(vm: Vm) -> None:
    process = Process(vm.pid)
    arch, told = arch_of(process.elf()), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            code = ctypes.create_string_buffer(_FILTER)
            program = ctypes.create_string_buffer(
                struct.pack("<HxxxxxxQ", 4, ctypes.addressof(code))
            )
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            assert libc.prctl(_SET_SECCOMP, _MODE_FILTER, program, 0, 0) == 0
            Tracer(vm.pid, arch, [Probe(process.base() + 0x40)])
        except TargetError as error:
            os.write(told[1], f"{error}; {error.hint}".encode())
        finally:
            os._exit(0)
    os.close(told[1])
    os.waitpid(child, 0)
    with os.fdopen(told[0]) as answer:
        text = answer.read()
    assert "a seccomp filter forbids perf_event_open" in text
    assert "--cap-add=PERFMON" in text


# Truth -------------------------------------------------------------------------------


def test_what_the_ledger_denies_is_told_and_explains_nothing() -> None:
    with Vm(debug_qemu()) as vm:
        reader = Reader(Process(vm.pid))
        tracing = tracing_of(reader)
        tracing.start()
        with contextlib.closing(tracing):
            with vm.monitor() as monitor:
                monitor.execute("device_add", {"driver": "intel-hda", "id": "h"})
            begin = time.monotonic_ns()
            snapshot = reader.read()
            span = begin, time.monotonic_ns()
            recording = tracing.stop()
        device = next(d.address for d in snapshot.devices.values() if d.id == "h")
        book = choose(Index(snapshot))[1]
        whole = tracing.explain(recording, book, [device], span).balances[device]
    assert recording.seen > sum(map(len, recording.events.values())) > 20
    assert not whole.denied and not whole.unexplained
    # A ledger that does not know of subregions: three takes of them remain all the same.
    known = {**book.on, device: [e for e in book.on[device] if e.kind != "subregion"]}
    blind = Book(book.index, book.policy, book.edges, known)
    short = balance(blind, whole.life)
    assert [kind for kind, _ in short.denied] == ["subregion"] * 3
    assert len(short.unexplained) == 3 and len(short.held) == len(known[device])
    lines = list(traces.balance_lines(blind, short))
    assert sum("taken as subregion, which no field shows: " in line for line in lines) == 3
    assert any("3 references that nothing known holds" in line for line in lines)
    assert blind.residual(device) == 3


#: A program that maps a library when it is told to.
_LATER = "import ctypes, sys; input(); ctypes.CDLL(sys.argv[1]); print(1, flush=True); input()"


def test_copies_in_a_module_that_is_mapped_later_are_found(tmp_path: Path) -> None:
    library = tmp_path / "device.so"
    source = SOURCE + "void qemu_stamp_1(void) {} void finalize(struct object *o) {}\n"
    source += "void assert_failed(void) { abort(); }\n"
    gcc = ["gcc", "-x", "c", "-", "-shared", "-fPIC", "-O2", "-DHIDDEN=static inline"]
    subprocess.run([*gcc, "-o", str(library)], input=source, text=True, check=True)
    command = [sys.executable, "-c", _LATER, str(library)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as later:
        assert later.stdin is not None and later.stdout is not None
        try:
            time.sleep(0.1)
            code = Code(Process(later.pid))
            assert new_sites(code, 24, 4) == []
            later.stdin.write("\n")
            later.stdin.flush()
            later.stdout.readline()
            sites = new_sites(code, 24, 4)
        finally:
            later.kill()
    assert len(sites) == 4 and {site.module.name for site in sites} == {"device.so"}
    assert {site.write.operation for site in sites} == {"xadd", "sub"}


# Pictures ----------------------------------------------------------------------------


def test_the_page_of_a_hunt_shows_the_balance(vm: Vm, qmr: Qmr, tmp_path: Path) -> None:
    rows = qmr(vm.pid, "hunt", "--yes", "bochs-display", "--trace", "--json")
    (tmp_path / "rows.jsonl").write_text(rows.out)
    page = tmp_path / "page.html"
    assert qmr("report", tmp_path / "rows.jsonl", "-o", page).code in (0, 1)
    text = page.read_text()
    assert 'class="balance"' in text
    picture = text[text.index('class="balance"') :]
    picture = picture[: picture.index("</svg>")]
    assert "+3" in picture and "bochs-display:PCIDeviceClass.realize" in picture
