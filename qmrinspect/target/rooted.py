"""Paths as another process sees them
-----------------------------------

A process in a container or a chroot has a root directory of its own, and the names
that it uses are meant there.  The kernel follows an absolute link from the root of
whoever opens it; here it is followed from the root of that process, so that what it
wrote into its file system never leads out of it.
"""

from __future__ import annotations

import errno
import os

__all__ = ["open_in_root"]

# As the kernel's own limit.
_LINKS_MAX = 40


def open_in_root(root: str, path: str, flags: int = os.O_RDONLY) -> tuple[int, str]:
    """Open a path as a process does whose root directory is ``root``.

    :param root: ``/`` or ``/proc/PID/root``.
    :param path: absolute, as that process would write it.
    :param flags: for the last part of the path; never blocks at a FIFO.
    :return: a file descriptor, and the path without links, as seen from ``root``.
    :raises OSError: as :func:`os.open` does.
    """
    open_fds = [os.open(root, os.O_PATH | os.O_DIRECTORY)]
    try:
        return _walk(open_fds, path, flags)
    finally:
        for fd in open_fds:
            os.close(fd)


def _walk(fds: list[int], path: str, flags: int) -> tuple[int, str]:
    names: list[str] = []
    todo = _parts(path)
    links = 0
    while todo:
        name = todo.pop()
        if name == "..":
            if names:
                names.pop()
                os.close(fds.pop())
            continue
        link = _link(fds[-1], name)
        if link is None:
            names.append(name)
            if not todo:
                final = flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                return os.open(name, final, dir_fd=fds[-1]), "/" + "/".join(names)
            fds.append(os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fds[-1]))
            continue
        links += 1
        if links > _LINKS_MAX:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if link.startswith("/"):
            while names:
                names.pop()
                os.close(fds.pop())
        todo += _parts(link)
    return os.open(".", flags | os.O_CLOEXEC, dir_fd=fds[-1]), "/" + "/".join(names)


def _parts(path: str) -> list[str]:
    """Return the parts of a path, the last one first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _link(directory: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None
