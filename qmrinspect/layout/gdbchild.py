"""A GDB that reads debug information
-----------------------------------

GDB reads the DWARF, so that whatever a compiler made of it is read as everybody's GDB
reads it.  It gets open files, never names: what a program says of names, and where a
file lies in a container, is settled before.  It reads another user's program with that
user's rights, and none of its configuration or scripts.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Callable, Optional

from ..errors import LayoutError
from ..target import proc
from ..tuples import NamedTuple
from .debugfiles import DebugFile

# What only a GDB needs is imported when one is asked: a check mostly asks none.
if TYPE_CHECKING:
    import subprocess

__all__ = ["Supplement", "User", "ask_gdb", "gdb_command", "rights", "use_gdb", "user_of"]

# What the other GDB runs; the only file besides the front that knows GDB.
_SCRIPT = Path(__file__).resolve().parent / "gdb_types.py"
# What of the environment another user's GDB gets; one from PyPI needs those of Python.
_HARMLESS = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONHOME", "PYTHONPATH")
_TIMEOUT_S = 300
_ANSWER_MAX = 64 << 20
_TICK_S = 0.5
_STDERR_MAX = 4096

#: The uid and gid that a GDB has to run as; None for our own.
User = Optional[tuple[int, int]]


class Supplement(NamedTuple):
    """What ``dwz`` took out of a file and put into another one."""

    build_id: str
    file: DebugFile


_program: list[str] = []


def use_gdb(command: Sequence[str]) -> None:
    """Use this GDB, not the first one in ``PATH``."""
    _program[:] = command


def gdb_command() -> list[str]:
    """Return how GDB is started, empty when there is none."""
    import shutil

    found = shutil.which("gdb")
    return _program or ([found] if found else [])


def user_of(pid: int, path: str) -> User:
    """Return whose rights are enough to read a program, None for our own.

    :param pid: of its process, 0 when there is none.
    :param path: of its file.
    """
    owners: list[tuple[int, int]] = []
    if pid:
        try:
            status = proc.status(pid)
            owners += zip(map(int, status["Uid"].split()), map(int, status["Gid"].split()))
        except (OSError, KeyError, ValueError):
            pass  # it has ended; its file may tell
    # Who is not root runs what others have built, and reads it as he runs it.
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            info = os.stat(path)
            owners.append((info.st_uid, info.st_gid))
    return next((owner for owner in owners if owner[0] not in (0, os.geteuid())), None)


def ask_gdb(
    file: DebugFile,
    question: str,
    argument: object,
    user: User = None,
    supplement: Supplement | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Have GDB open a file and answer a question about it.

    :param question: ``layout``, ``types`` or ``lines``, with the argument that
        ``gdb_types.py`` says.
    :param user: as :func:`user_of` returns it.
    :param report: is given what takes long.
    :raises LayoutError: there is no GDB, or it could not read the file.
    """
    import tempfile

    gdb = gdb_command()
    if not gdb:
        raise LayoutError("GDB is needed to read debug information", "apt-get install gdb")
    if user is not None and os.geteuid() != 0:
        raise LayoutError(f"{file.path} is uid {user[0]}'s: run qmr as that user or as root")
    request = json.dumps([question, argument])
    with ExitStack() as stack:
        there, back = os.pipe()
        answer = stack.enter_context(os.fdopen(there, "rb"))
        out = stack.enter_context(os.fdopen(back, "wb"))
        said = stack.enter_context(tempfile.TemporaryFile())
        text = stack.enter_context(tempfile.TemporaryFile())
        text.write(_SCRIPT.read_bytes() + f"\nanswer({request!r}, {back})\n".encode())
        text.seek(0)
        command = [*gdb, "-nx", "-batch", "-iex", "set auto-load no"]
        fds = [file.fd, back, text.fileno()]
        if supplement is not None:
            directory = stack.enter_context(_directory(supplement))
            command += ["-iex", f"set debug-file-directory {directory}"]
            fds.append(supplement.file.fd)
        # Another user may open none of our files, but use those that are open.
        run = f"python import os; exec(os.fdopen({text.fileno()}).read())"
        command += ["-ex", run, f"/proc/self/fd/{file.fd}"]
        child = _start(command, fds, said, user)
        out.close()
        try:
            raw = _answer(answer, file.path, report)
        finally:
            report("")
            child.kill()
            child.wait()
        try:
            data: dict[str, Any] = json.loads(raw)
        except (ValueError, RecursionError):
            last = (_tail(said) or ["it wrote nothing"])[-1]
            raise LayoutError(f"GDB could not read the structures of {file.path}: {last}") from None
    return data


def _tail(said: IO[bytes]) -> list[str]:
    said.seek(max(0, said.seek(0, os.SEEK_END) - _STDERR_MAX))
    return said.read().decode("utf-8", "replace").strip().splitlines()


def _start(
    command: Sequence[str], fds: Sequence[int], said: IO[bytes], user: User
) -> subprocess.Popen[bytes]:
    import subprocess

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        pass_fds=fds,
        **rights(user),
    )


def rights(user: User) -> dict[str, Any]:
    """Return what :class:`subprocess.Popen` needs to give a program the rights of a user."""
    env = {key: value for key, value in os.environ.items() if key != "DEBUGINFOD_URLS"}
    if user is None:
        return {"env": env}
    # What is in our environment is not for that user to see.
    env = {key: env[key] for key in _HARMLESS if key in env}
    uid, gid = user
    return {"env": {**env, "HOME": "/"}, "cwd": "/", "user": uid, "group": gid, "extra_groups": ()}


def _answer(answer: IO[bytes], name: str, report: Callable[[str], None]) -> bytes:
    """Read what GDB writes until it ends.

    :raises LayoutError: that takes too long, or is too much.
    """
    begin = time.monotonic()
    raw = bytearray()
    report(f"GDB reads the debug information of {name}")
    while True:
        if select.select([answer], [], [], _TICK_S)[0]:
            piece = os.read(answer.fileno(), 1 << 16)
            if not piece:
                return bytes(raw)
            raw += piece
        elapsed = time.monotonic() - begin
        if elapsed > _TIMEOUT_S:
            raise LayoutError(f"GDB took longer than {_TIMEOUT_S} s to read {name}")
        if len(raw) > _ANSWER_MAX:
            raise LayoutError(f"GDB finds more structures in {name} than any QEMU has")
        if elapsed >= _TICK_S:
            report(f"GDB reads the debug information of {name}: {elapsed:.0f} s")


@contextmanager
def _directory(supplement: Supplement) -> Iterator[str]:
    """Make the directory in which GDB finds what ``dwz`` took out, by its build id."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="qmr-") as directory:
        os.chmod(directory, 0o755)
        place = Path(directory) / ".build-id" / supplement.build_id[:2]
        place.mkdir(parents=True)
        link = place / f"{supplement.build_id[2:]}.debug"
        link.symlink_to(f"/proc/self/fd/{supplement.file.fd}")
        yield directory
