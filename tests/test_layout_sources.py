"""Where layouts and symbols come from: debug files, a server, the user's own, and none.

One QEMU with debug information is stripped of everything; what it lacks lies here and there.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Qmr
from faketarget import elf_file
from gdbtool import Gdb, GdbRefused, debug_qemu

from qmrinspect.errors import LayoutError, QmrError, ReadingError, TargetError
from qmrinspect.hotplug.vm import Vm
from qmrinspect.layout import debugfiles
from qmrinspect.layout import find as sources
from qmrinspect.layout.debugfiles import Origin, find
from qmrinspect.layout.dwarf import DebugInfo
from qmrinspect.layout.find import given
from qmrinspect.reading import Reader
from qmrinspect.target.elf import ElfFile
from qmrinspect.target.process import Process
from qmrinspect.target.rooted import open_in_root

ROOT = Path(__file__).resolve().parent.parent


class Parts(NamedTuple):
    """A QEMU and its debug file, apart."""

    directory: Path
    debug: Path
    build_id: str

    def program(self, name: str, *options: str) -> Path:
        """Return the program without any symbols, in a directory of its own."""
        place = self.directory / name
        place.mkdir()
        program = place / "qemu-system-x86_64"
        run("objcopy", "--strip-all", *options, debug_qemu(), program)
        return program


def run(*command: object) -> None:
    subprocess.run([*map(str, command)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def parts() -> Iterator[Parts]:
    # Where another user may look as well.
    with tempfile.TemporaryDirectory(prefix="qmr-parts-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        debug = directory / "qemu.debug"
        run("objcopy", "--only-keep-debug", debug_qemu(), debug)
        yield Parts(directory, debug, ElfFile(debug.read_bytes(), "it").build_id())


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing cached, nothing of the user's own, and no server."""
    debug_qemu()  # is found in the cache that there is
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("DEBUGINFOD_CACHE_PATH", str(tmp_path / "debuginfod"))
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    return tmp_path


@pytest.fixture
def server(parts: Parts, tmp_path: Path) -> Iterator[str]:
    """Serve the debug file as debuginfod does."""
    place = tmp_path / "served" / "buildid" / parts.build_id
    place.mkdir(parents=True)
    (place / "debuginfo").symlink_to(parts.debug)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def source_of(vm: Vm) -> str:
    """Return where the layout came from under which all of a VM balances."""
    report = Reader(Process(vm.pid)).check()
    assert report.exact == report.objects > 200
    return report.book.index.snapshot.target.layout


# Debug files -----------------------------------------------------------------------


def test_a_program_without_any_symbols_is_told_what_was_tried(
    parts: Parts, clean: Path, qmr: Qmr, server: str
) -> None:
    with Vm(str(parts.program("plain")), extra=("-name", "plain")) as vm:
        done = qmr(vm.pid, "check")
        assert done.code == 2 and not done.out
        first, *lines = done.err.splitlines()
        assert "names none of its variables" in first
        tried = [line for line in lines if line.startswith("  tried: ")]
        assert any(f".build-id/{parts.build_id[:2]}/" in line for line in tried)
        assert any("DEBUGINFOD_URLS" in line for line in tried)
        assert any(line.startswith("  you can: export DEBUGINFOD_URLS=https://") for line in lines)
        (row,) = (p for p in qmr("ps", "--json").json["processes"] if p["pid"] == vm.pid)
        assert (row["readable"], row["layout"]) == (False, "")
        assert "names none" in row["refused"]
        # A server has it: from then on the file is here, and is read like any other.
        for layout in ("dwarf", "cache"):
            done = qmr(vm.pid, "check", "--json", env={"DEBUGINFOD_URLS": server})
            assert done.code == 0 and done.json["target"]["layout"] == layout


@pytest.mark.parametrize("reader", ["addr2line", "gdb"])
def test_a_trace_has_its_lines_from_a_server(
    parts: Parts, clean: Path, qmr: Qmr, server: str, reader: str
) -> None:
    tools = clean / "tools"
    tools.mkdir()
    for name in ("gdb", reader):
        (tools / name).unlink(missing_ok=True)
        (tools / name).symlink_to(str(shutil.which(name)))
    with Vm(str(parts.program(f"traced-by-{reader}"))) as vm:
        asked = {"DEBUGINFOD_URLS": server, "PATH": str(tools)}
        done = qmr(vm.pid, "trace", "--plug", "intel-hda", "--json", env=asked)
    assert done.code == 0, done.err
    device = done.json["objects"][0]
    takes = [ref["taken"]["stack"] for ref in device["references"] if ref["kind"] == "subregion"]
    frames = [frame for stack in takes for frame in stack if frame["from"] == "line"]
    places = {(frame["function"], frame["file"]) for frame in frames if frame["line"] > 0}
    assert ("intel_hda_realize", "hw/audio/intel-hda.c") in places


def test_a_debug_file_is_found_by_name_and_read_with_the_rights_of_its_user(
    parts: Parts, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = parts.program("linked", f"--add-gnu-debuglink={parts.debug}")
    (program.parent / ".debug").mkdir()
    shutil.copy(parts.debug, program.parent / ".debug" / "qemu.debug")
    seen = parts.directory / "seen"
    seen.mkdir()
    seen.chmod(0o777)
    wrapper = seen / "gdb"
    wrapper.write_text(f'#!/bin/sh\nid -u > {seen}/uid\nexec {shutil.which("gdb")} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{seen}:{os.environ['PATH']}")
    other = 65534 if os.geteuid() == 0 else os.geteuid()
    command = [str(program), "-display", "none", "-S", "-nodefaults", "-qmp", "stdio"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=other, group=other
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        # The program may be replaced while it runs.
        program.unlink()
        report = Reader(Process(process.pid)).check()
        process.kill()
    assert report.exact == report.objects > 200
    assert report.book.index.snapshot.target.layout == "dwarf"
    assert (seen / "uid").read_text().strip() == str(other)


def link(name: bytes) -> bytes:
    """Return what names a debug file, with a checksum that none has."""
    return name + b"\0" * (4 - len(name) % 4) + b"\0\0\0\0"


def looked_at(elf: ElfFile, exe: Path) -> tuple[list[str], list[str]]:
    """Return the debug files that are found, and what is said of the others."""
    notes: list[str] = []
    return [
        file.path for file in find(elf, Origin(str(exe), str(exe), "/", ()), notes.append)
    ], notes


def test_names_in_a_program_lead_nowhere_else(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".debug").mkdir(parents=True)
    outside = tmp_path / "outside.debug"
    outside.write_bytes(elf_file({"current_machine": 1}))
    exe = home / "qemu"
    for name in (b"../outside.debug", bytes(outside), b"..", b"", b"sub/x", b"x" * 300):
        data = elf_file({"current_machine": 1}, debuglink=link(name))
        found, notes = looked_at(ElfFile(data, "it"), exe)
        assert not found
        assert any("by name: the program names" in note for note in notes)
    # Nor does a link that somebody made in a directory which is searched.
    (home / "link.debug").symlink_to(outside)
    (home / ".debug" / "link.debug").symlink_to("../../outside.debug")
    os.mkfifo(home / "fifo.debug")
    data = elf_file({"current_machine": 1}, debuglink=link(b"link.debug"))
    found, notes = looked_at(ElfFile(data, "it"), exe)
    assert not found and sum("leads out of" in note for note in notes) == 2
    found, notes = looked_at(ElfFile(elf_file({}, debuglink=link(b"fifo.debug")), "it"), exe)
    assert not found and any("is not a debug file" in note for note in notes)
    # What stays inside is followed.
    (home / ".debug" / "link.debug").unlink()
    (home / ".debug" / "link.debug").symlink_to("real")
    shutil.copy(outside, home / ".debug" / "real")
    assert looked_at(ElfFile(data, "it"), exe)[0] == [f"{home}/.debug/link.debug"]


def test_paths_are_followed_inside_of_a_root(tmp_path: Path) -> None:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "file").write_text("inside")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "file").write_text("outside")
    (tmp_path / "root" / "up").symlink_to("../../../../etc/file")
    (tmp_path / "root" / "absolute").symlink_to("/etc/file")
    (tmp_path / "root" / "loop").symlink_to("loop")
    for name in ("etc/file", "/etc/../etc/file", "../../etc/file", "up", "absolute"):
        fd, real = open_in_root(str(tmp_path / "root"), name)
        with os.fdopen(fd) as file:
            assert (file.read(), real) == ("inside", "/etc/file")
    for name in ("loop", "missing", "etc/file/more"):
        with pytest.raises(OSError):
            open_in_root(str(tmp_path / "root"), name)


def test_a_supplement_out_of_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(elf_file({}))
    place = tmp_path / "home"
    place.mkdir()
    for name, refused in ((b"../secret", True), (b"more", False)):
        (place / "more").write_bytes(elf_file({}))
        (place / "it").write_bytes(elf_file({}, debugaltlink=name + b"\0" + b"\1" * 20))
        file = debugfiles.open_file(str(place / "it"))
        if refused:
            with pytest.raises(TargetError, match="none of the directories"):
                debugfiles.supplement(file)
        else:
            build_id, found = debugfiles.supplement(file)
            assert build_id == "01" * 20 and found is not None


# The user's own --------------------------------------------------------------------


def test_a_layout_is_saved_without_a_process_and_used(clean: Path, qmr: Qmr, stock_vm: Vm) -> None:
    saved = clean / "mine.json"
    done = qmr("layout", debug_qemu(), "--save", saved)
    assert done.code == 0 and str(saved) in done.out
    named = qmr(stock_vm.pid, "check", "--json", "--layout", saved).json
    assert named["target"]["layout"] == "file:mine" and named["exact"] == named["objects"]
    own = clean / "config" / "qmr" / "layouts"
    own.mkdir(parents=True)
    (own / "broken.json").write_text("{" * 100_000)
    (own / "another.json").write_text(json.dumps({"format": "qmr-layout/1", "structs": {}}))
    shutil.copy(saved, own / "right.json")
    assert source_of(stock_vm) == "file:right"
    shutil.rmtree(own)
    assert source_of(stock_vm).startswith("profile:")


def test_a_profile_is_made_from_one_build_and_fits_another(
    clean: Path, stock_vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.path.append(str(ROOT / "tools"))
    import make_profile

    monkeypatch.setattr(make_profile, "PROFILES", clean)
    make_profile.write("mine", make_profile.join([make_profile.program_layout(debug_qemu())]))
    monkeypatch.setattr(sources, "profiles", lambda: [clean / "mine.json"])
    assert source_of(stock_vm) == "profile:mine"


def test_check_and_layout_say_what_was_not_searched_for(
    clean: Path, qmr: Qmr, stock_vm: Vm
) -> None:
    path = next(path for path in sources.profiles() if "7.2" in path.name)
    layout = json.loads(path.read_text())
    del layout["structs"]["NBDClient"]["fields"]["next"]
    (clean / "less.json").write_text(json.dumps(layout))
    said = qmr(stock_vm.pid, "check", "--layout", clean / "less.json").out
    (line,) = (line for line in said.splitlines() if "not searched for in this QEMU: " in line)
    assert "nbd-client" in line and "layout says why)" in line
    said = qmr(stock_vm.pid, "layout", "--layout", clean / "less.json").out
    assert "was not searched for" in said and "the layout lacks NBDClient.next" in said


def test_a_layout_that_does_not_fit_is_refused_with_its_reason(
    clean: Path, qmr: Qmr, stock_vm: Vm
) -> None:
    profiles = Path(debugfiles.__file__).parent / "profiles"
    other = next(path for path in profiles.glob("*.json") if "7.2" not in path.name)
    done = qmr(stock_vm.pid, "check", "--layout", other)
    assert done.code == 3
    assert f"  tried: file:{other.stem} does not fit: " in done.err
    assert "profile:" not in done.err
    assert qmr(stock_vm.pid, "check", "--layout", clean / "none").code == 2
    (clean / "bad.json").write_text('{"format": "qmr-layout/1", "structs": {"X": {"size": 1e999}}}')
    with pytest.raises(LayoutError, match="is not a layout file"):
        given(clean / "bad.json")


# What is no QEMU to read yet, or any more --------------------------------------------


def test_a_qemu_that_has_no_machine_yet_is_told_as_that(tmp_path: Path, qmr: Qmr) -> None:
    fifo = tmp_path / "config"
    os.mkfifo(fifo)
    qemu = shutil.which("qemu-system-x86_64")
    assert qemu is not None
    command = [qemu, "-name", "early", "-display", "none", "-readconfig", str(fifo)]
    with subprocess.Popen(command) as process:
        while not Path(f"/proc/{process.pid}/wchan").read_text().startswith(("wait_for", "fifo")):
            assert process.poll() is None
        with pytest.raises(ReadingError, match="no machine yet"):
            Reader(Process(process.pid)).read()
        row = next(p for p in qmr("ps", "--json").json["processes"] if p["pid"] == process.pid)
        assert not row["readable"] and "no machine yet" in row["refused"]
        process.kill()
        # It is dead, and its parent does not know yet.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(QmrError, match="has ended"):
            Process(process.pid)


def test_a_qemu_that_dies_while_layouts_are_tried_is_told_as_that(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Vm() as vm:
        reader = Reader(Process(vm.pid))
        capture = Process.peek

        def die(self: Process, address: int, size: int) -> bytes | None:
            vm.close()
            return capture(self, address, size)

        reader.need_machine()
        monkeypatch.setattr(Process, "peek", die)
        with pytest.raises(TargetError, match="has ended"):
            reader.read()


# Programs of others ----------------------------------------------------------------


def test_a_hunt_ends_where_nothing_can_be_read(parts: Parts, clean: Path, qmr: Qmr) -> None:
    program = parts.program("hunted")
    begun = sum("hunted" in line for line in commands())
    done = qmr("hunt", "--qemu", program, "--json")
    assert done.code == 2 and not done.out
    assert done.err.count("names none of its variables") == 1
    assert begun == sum("hunted" in line for line in commands()) == 0


def commands() -> list[str]:
    """Return the command lines of all processes."""
    out = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            out.append(path.read_bytes().decode("utf-8", "replace"))
        except OSError:
            continue
    return out


def test_a_program_that_was_rewritten_is_read(parts: Parts, clean: Path) -> None:
    """patchelf adds a writable segment, as for Nix, conda and PyPI."""
    program = parts.directory / "rewritten"
    shutil.copy(debug_qemu(), program)
    run(Path(sys.executable).with_name("patchelf"), "--set-rpath", "/nowhere/" + "x" * 200, program)
    elf = ElfFile(program.read_bytes(), "it")
    assert sum(s.type == 1 and bool(s.flags & 2) for s in elf.segments) == 2
    with Vm(str(program)) as vm:
        # Another program may take its place meanwhile.
        program.unlink()
        shutil.copy("/bin/true", program)
        assert source_of(vm) == "dwarf"


def test_a_qemu_in_a_container_is_read_and_driven(tmp_path: Path, qmr: Qmr) -> None:
    """It has a root directory, processes and mounts of its own; its socket is behind a link."""
    root = tmp_path / "root"
    root.mkdir()
    script = (
        f"mount --rbind / {root} && mount -t tmpfs none {root}/run && mkdir {root}/run/monitors "
        f"&& ln -s /run/monitors {root}/run/link && mount -t proc none {root}/proc && "
        f"exec chroot {root} $(command -v qemu-system-x86_64) -name boxed -display none -S "
        "-nodefaults -qmp unix:/run/link/qmp,server=on,wait=off"
    )
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 20
        found: list[dict[str, Any]] = []
        while not (found and found[0]["readable"]):
            assert process.poll() is None and time.monotonic() < deadline
            running = qmr("ps", "--json").json["processes"]
            found = [row for row in running if row["name"] == "boxed"]
        assert found[0]["qmp"] == [f"/proc/{found[0]['pid']}/root/run/monitors/qmp"]
        checked = qmr("boxed", "check", "--json")
        assert checked.code == 0 and checked.json["exact"] == checked.json["objects"] > 200
        assert "virtio-rng-pci was finalized" in (
            qmr("boxed", "plug", "virtio-rng-pci", "id=r0").err + qmr("boxed", "unplug", "r0").out
        )
        process.kill()


_C = """
struct Inner { long x[40]; };
struct Wanted { char pad[12]; int ref; struct Inner *parent; struct Inner in; };
struct Wanted w;
int main(void) { return w.ref + (int) sizeof(struct Inner); }
"""


def test_what_dwz_took_out_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "it.c").write_text(_C)
    programs = [tmp_path / name for name in ("one", "two")]
    for number, program in enumerate(programs):
        flags = ("-g", f"-DNUMBER={number}", f"-O{number}", "-Wl,--build-id")
        run("cc", *flags, "-o", program, tmp_path / "it.c")
    common = tmp_path / "common.debug"
    run("dwz", "-r", "-m", common, *programs)

    def ask() -> tuple[Any, list[str]]:
        file, notes = debugfiles.open_file(str(programs[0])), list[str]()
        debug = DebugInfo(file.elf, Origin(file.path, file.path, "/", ()))
        return debug.ask("layout", {"Wanted": "ref parent in"}, notes.append), notes

    wanted = {
        "Wanted": {"size": 344, "fields": {"ref": [12, 4], "parent": [16, 8], "in": [24, 320]}}
    }
    assert ask()[0] == wanted
    build_id = ElfFile(common.read_bytes(), "it").build_id()
    place = tmp_path / "debug" / ".build-id" / build_id[:2]
    place.mkdir(parents=True)
    common.rename(place / f"{build_id[2:]}.debug")
    found, notes = ask()
    assert found != wanted and any("what dwz took out of" in note for note in notes)
    monkeypatch.setenv("NIX_DEBUG_INFO_DIRS", str(tmp_path / "debug"))
    assert ask()[0] == wanted


def test_inside_gdb_the_symbols_are_those_that_gdb_has_loaded(parts: Parts, clean: Path) -> None:
    with Vm(str(parts.program("gdb"))) as vm, Gdb("-p", vm.pid) as gdb:
        with pytest.raises(GdbRefused, match=r"names none of its variables(.|\n)*  tried: "):
            gdb.run("qmr check")
        gdb.run(f"symbol-file {parts.debug}")
        report = gdb.json("qmr check --json")
        assert report["exact"] == report["objects"] > 200
        assert report["target"]["layout"] == "dwarf"
