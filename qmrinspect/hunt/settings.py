"""What a campaign is asked to do
-----------------------------
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Job", "Settings"]


class Settings(NamedTuple):
    """How a campaign hunts.

    :param guest: ``none``, or the paths of a Linux guest's kernel and initramfs, joined by a colon.
    :param hosts: what the VM is started with, by the names of :data:`START_OPTIONS`.
    :param bundle: directory for the evidence of findings, or "".
    :param forecast: hold each device by a link for a reading, and foretell what each policy
        would make of its unplug.
    :param layout: the user's own layout file, or "".
    :param trace: whether to record who takes and drops references.
    :param error_paths: plug each device in the ways that make its realize fail.
    """

    qemu: str = "qemu-system-x86_64"
    machine: str = "pc"
    accel: str = "tcg"
    cycles: int = 1
    guest: str = "none"
    hosts: tuple[str, ...] = ()
    bundle: str = ""
    forecast: bool = False
    layout: str = ""
    trace: bool = False
    error_paths: bool = False


class Job(NamedTuple):
    """One driver; ``cpu`` is the CPU model that the VM must be started with, or ""."""

    driver: str
    cpu: str = ""
