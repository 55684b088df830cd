"""Debug information from a server
-------------------------------

The servers that the user names in ``DEBUGINFOD_URLS`` are asked through elfutils'
client library, which keeps what it gets (and what it did not get) in its own cache.
"""

from __future__ import annotations

import ctypes
import os
from typing import Callable

from .debugfiles import DebugFile, Note, open_file

__all__ = ["fetch"]

_LIBRARY = "libdebuginfod.so.1"
_COMMAND = "debuginfod-find"
_TIMEOUT_S = 900
_MIB = 1 << 20
_Progress = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_long, ctypes.c_long)


def fetch(build_id: str, name: str, note: Note, report: Callable[[str], None]) -> DebugFile | None:
    """Get the debug file of a build from the user's servers, None when none has it.

    :param build_id: hex digits.
    :param name: what it is of, for people.
    :param note: is told in a line why there is none.
    :param report: is given how far it is.
    """
    if not os.environ.get("DEBUGINFOD_URLS", "").strip():
        note("debuginfod: no server is named (DEBUGINFOD_URLS)")
        return None
    if not build_id:
        note("debuginfod: the program has no build id")
        return None
    report(f"asking debuginfod for the debug information of {name}")
    try:
        path = _find(build_id, name, report)
        if path:
            return open_file(path)
        note("debuginfod: no server of DEBUGINFOD_URLS has it")
    except Exception as error:
        # The client's, the server's, or the file's; there are other ways to a layout.
        note(f"debuginfod: {error}")
    finally:
        report("")
    return None


def _find(build_id: str, name: str, report: Callable[[str], None]) -> str:
    """Return the path of the downloaded file, empty when there is none."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return _run(build_id)
    library.debuginfod_begin.restype = ctypes.c_void_p
    library.debuginfod_end.argtypes = [ctypes.c_void_p]
    library.debuginfod_set_progressfn.argtypes = [ctypes.c_void_p, _Progress]
    library.debuginfod_find_debuginfo.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_char_p),
    ]
    interrupted: list[BaseException] = []

    def progress(_client: int, done: int, total: int) -> int:
        # An exception cannot pass through the library.
        try:
            if total > 0:
                report(f"downloading the debug information of {name}: {done // _MIB} MiB")
            return int(bool(interrupted))
        except BaseException as error:
            interrupted.append(error)
            return 1

    callback = _Progress(progress)
    client = library.debuginfod_begin()
    if not client:
        raise OSError("its client library cannot be used")
    try:
        library.debuginfod_set_progressfn(client, callback)
        found = ctypes.c_char_p()
        raw = bytes.fromhex(build_id)
        fd = library.debuginfod_find_debuginfo(client, raw, len(raw), ctypes.byref(found))
        if interrupted:
            raise interrupted[0]
        if fd < 0:
            return ""
        os.close(fd)
        return os.fsdecode(found.value or b"")
    finally:
        library.debuginfod_end(client)


def _run(build_id: str) -> str:
    import shutil
    import subprocess

    command = shutil.which(_COMMAND)
    if command is None:
        raise OSError(f"its client is not installed ({_LIBRARY}, {_COMMAND})")
    done = subprocess.run(
        [command, "debuginfo", build_id],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    return os.fsdecode(done.stdout.strip()) if done.returncode == 0 else ""
