"""Reading a live process leaves it running, whatever happens to the reader."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Qmr

from qmrinspect.errors import NotStopping, TargetError
from qmrinspect.hotplug.vm import Vm
from qmrinspect.reading import Reader
from qmrinspect.target import proc
from qmrinspect.target.denied import denied
from qmrinspect.target.image import PAGE, Mapping, Peek
from qmrinspect.target.malloc import Free, Malloc
from qmrinspect.target.memory import BatchReader, Buffers
from qmrinspect.target.process import Process
from qmrinspect.target.threads import Stopped

READ_FOREVER = """
import sys
from qmrinspect.reading import Reader
from qmrinspect.target.process import Process
reader = Reader(Process(int(sys.argv[1])))
reader.read()
print("reading", flush=True)
while True:
    reader.read()
"""

STOP_FOREVER = """
import sys
from qmrinspect.target.threads import Stopped
stopped = Stopped(int(sys.argv[1]))
stopped.stop()
print("stopped", flush=True)
sys.stdin.read()
"""


def states(pid: int) -> set[str]:
    """The state letters of all threads: ``t`` is a thread that a tracer holds."""
    out = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        stat = (task / "stat").read_text()
        out.add(stat.rpartition(")")[2].split()[0])
    return out


def runs(vm: Vm) -> bool:
    """Whether no thread stands, nobody traces it, and its monitor answers."""
    status = Path(f"/proc/{vm.pid}/status").read_text()
    with vm.monitor() as monitor:
        answer = monitor.execute("query-status")
    return not states(vm.pid) & {"t", "T"} and "TracerPid:\t0" in status and bool(answer)


def test_the_vm_runs_after_a_reading(fresh_vm: Vm) -> None:
    Reader(Process(fresh_vm.pid)).read()
    assert runs(fresh_vm)


@pytest.mark.parametrize("seed", range(8))
def test_a_reader_that_is_killed_leaves_the_vm_running(fresh_vm: Vm, seed: int) -> None:
    command = [sys.executable, "-c", READ_FOREVER, str(fresh_vm.pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "reading\n"
        with pytest.raises(subprocess.TimeoutExpired):
            reader.wait(random.Random(seed).uniform(0.0, 0.2))
        reader.kill()
    assert runs(fresh_vm)


def test_a_reader_that_is_killed_while_the_vm_stands_leaves_it_running(fresh_vm: Vm) -> None:
    command = [sys.executable, "-c", STOP_FOREVER, str(fresh_vm.pid)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as reader:  # type: ignore[call-overload]
        assert reader.stdout.readline() == "stopped\n"
        assert states(fresh_vm.pid) == {"t"}
        reader.kill()
    assert runs(fresh_vm)


def test_a_process_that_was_stopped_stays_stopped(fresh_vm: Vm) -> None:
    os.kill(fresh_vm.pid, signal.SIGSTOP)
    os.waitpid(fresh_vm.pid, os.WUNTRACED)
    snapshot = Reader(Process(fresh_vm.pid)).read()
    assert len(snapshot.objects) > 200
    assert states(fresh_vm.pid) == {"T"}
    os.kill(fresh_vm.pid, signal.SIGCONT)
    assert runs(fresh_vm)


def die_while_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the next process that is read killed while it stands."""
    run = BatchReader.run

    def die(self: BatchReader) -> list[tuple[int, int, int]]:
        os.kill(self._pid, signal.SIGKILL)
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(["sleep", "1"], timeout=0.05)
        return run(self)

    monkeypatch.setattr(BatchReader, "run", die)


def test_a_vm_that_dies_while_it_is_read_can_be_buried(monkeypatch: pytest.MonkeyPatch) -> None:
    # A zombie whose threads have a tracer that takes no note of them stays one for ever.
    with Vm() as vm:
        reader = Reader(Process(vm.pid))
        reader.read()
        die_while_read(monkeypatch)
        with pytest.raises(TargetError):
            reader.read()
        assert vm.wait(10)
        assert vm.exit_text() == "killed by SIGKILL"


def test_its_parent_learns_how_it_died(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "sleep 60 & echo $!; wait $!; echo $?"
    with subprocess.Popen(["sh", "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        process = Process(int(parent.stdout.readline()))
        die_while_read(monkeypatch)
        with contextlib.suppress(TargetError):
            process.capture([])
        assert parent.stdout.readline() == "137\n"


def test_a_thread_that_does_not_stop_at_once_is_tried_again(
    fresh_vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, failed = Stopped.stop, []

    def wait(self: Stopped) -> None:
        if len(failed) < 3:
            failed.append(1)
            raise NotStopping("it waits in the kernel")
        stop(self)

    monkeypatch.setattr(Stopped, "stop", wait)
    assert Reader(Process(fresh_vm.pid)).read().objects
    assert len(failed) == 3
    assert runs(fresh_vm)


def test_a_thread_that_stops_late_is_let_go_at_once(tmp_path: Path) -> None:
    # Whoever waits for the child of a vfork() cannot be stopped.
    source, program = tmp_path / "late.c", tmp_path / "late"
    source.write_text(
        "#include <unistd.h>\n"
        "int main(void) { char c; read(0, &c, 1); "
        "if (vfork() == 0) { write(1, &c, 1); read(0, &c, 1); _exit(0); } "
        "c = '3'; write(1, &c, 1); for (;;) pause(); }\n"
    )
    subprocess.run(["cc", "-w", "-o", program, source], check=True)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([program], bufsize=0, **pipes) as late:  # type: ignore[call-overload]
        late.stdin.write(b"1")
        assert late.stdout.read(1) == b"1"
        process = Process(late.pid)
        for _ in range(2):
            with pytest.raises(NotStopping, match=f"thread {late.pid} of process {late.pid}"):
                process.capture([])
        late.stdin.write(b"2")
        # Nobody reads it again, and whoever did still runs.
        assert late.stdout.read(1) == b"3"
        assert "TracerPid:\t0" in Path(f"/proc/{late.pid}/status").read_text()
        process.capture([])
        assert not states(late.pid) & {"t", "T"}
        late.kill()


def test_who_debugs_it_is_named(fresh_vm: Vm) -> None:
    command = [sys.executable, "-c", STOP_FOREVER, str(fresh_vm.pid)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "stopped\n"
        with pytest.raises(TargetError, match=rf"\(pid {other.pid}\) is debugging it"):
            Reader(Process(fresh_vm.pid)).read()
        other.kill()
    assert runs(fresh_vm)


def test_another_user_is_told_whose_it_is(fresh_vm: Vm) -> None:
    told, tell = os.pipe()
    # Root becomes somebody else; who is not root looks at what is root's.
    pid = fresh_vm.pid if os.geteuid() == 0 else 1
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            Process(pid)
        except TargetError as error:
            os.write(tell, str(error).encode())
        finally:
            os._exit(0)
    os.close(tell)
    os.waitpid(child, 0)
    with os.fdopen(told) as answer:
        assert "it belongs to uid 0: run qmr as that user or as root" in answer.read()


def test_an_ended_process(qmr: Qmr) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    done = qmr(str(gone.pid), "check")
    assert done.code == 2
    assert done.err.startswith(f"qmr: there is no process {gone.pid}")


def test_what_has_ended_and_was_not_waited_for_has_ended() -> None:
    """Before, it was in a container, or a right was lacking."""
    with subprocess.Popen(["true"]) as ends:
        while not proc.dead(ends.pid):
            time.sleep(0.01)
        assert denied(ends.pid).text == f"process {ends.pid} has ended"


def test_what_is_no_qemu_is_told(qmr: Qmr) -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        done = qmr(str(sleeper.pid), "check")
        sleeper.kill()
    assert done.code == 2
    assert "is not a QEMU system emulator" in done.err


def test_a_buffer_is_used_again_when_nobody_has_anything_of_it() -> None:
    buffers = Buffers()
    first = buffers.take(0x4000)
    view = memoryview(first.memory)[0x1000:0x2000]
    other = buffers.take(0x4000)
    assert other is not first
    assert buffers.take(0x4000) is other
    view.release()
    assert {buffers.take(0x4000), buffers.take(0x4000)} <= {first, other}
    # One that would be too small, or much too large, is not kept.
    assert buffers.take(64 << 20) not in (first, other)
    assert buffers.take(0x1000).size < 64 << 20


_STATIC = """
#include <unistd.h>
long current_machine = 0x1234567, zeroed[512];
int main(void) { zeroed[511] = 0x89; write(1, "x", 1); return pause(); }
"""


def test_what_was_free_before_a_stop_is_copied_where_it_no_longer_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is free is found before the stop, and counts only as far as the stop confirms it."""
    stays, ends = range(2), range(2, 4)  # pages of a heap

    def blocks(malloc: Malloc, peek: Peek, mappings: list[Mapping]) -> list[Free]:
        def block(page: int, sign: bytes | None = None) -> Free:
            at = heap.start + page * PAGE
            said = sign or peek(at, 8)
            assert said is not None
            return Free(at - PAGE, 2 * PAGE, ((at, said),))

        return [*map(block, stays), *(block(page, b"another!") for page in ends)]

    monkeypatch.setattr(Malloc, "blocks", blocks)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as sleeping:
        time.sleep(0.5)
        target = Process(sleeping.pid)
        heap = next(mapping for mapping in target.mappings() if mapping.path == "[heap]")
        image, _ = target.capture_all(lambda _: [(heap.start, 4 * PAGE)])
        target.close()
        sleeping.kill()
    assert [page for page in range(4) if image.holds(heap.start // PAGE + page)] == [*ends]


def test_a_static_pie_has_its_variables_where_it_was_loaded(tmp_path: Path) -> None:
    source, program = tmp_path / "it.c", tmp_path / "it"
    source.write_text(_STATIC)
    subprocess.run(["cc", "-static-pie", "-o", program, source], check=True)
    with subprocess.Popen([program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.read(1) == b"x"
        target = Process(process.pid)
        symbols = target.elf().symbols(["current_machine", "zeroed"])
        at = {name: target.base() + places[0] for name, places in symbols.items()}
        assert target.peek(at["current_machine"], 8) == (0x1234567).to_bytes(8, "little")
        assert target.peek(at["zeroed"] + 8 * 511, 8) == (0x89).to_bytes(8, "little")
        process.kill()
