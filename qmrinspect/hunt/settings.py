"""What a campaign is asked to do
-----------------------------

As JSON, in campaigns and bundles, what is not there is an empty string.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Job", "Settings"]


class Settings(NamedTuple):
    """How a campaign hunts; ``qemu``, ``machine`` and ``accel`` as of a VM.

    :param cycles: of plug and unplug, for each device.
    :param guest: the paths of a Linux guest's kernel and initramfs, joined by a colon, None for
        no guest.
    :param start_options: what the VM is started with, by the names of :data:`START_OPTIONS`.
    :param bundle: directory for the evidence of findings, None for no evidence.
    :param forecast: hold each device by a link for a reading, and foretell what each policy
        would make of its unplug.
    :param layout: the user's own layout file, None for none.
    :param trace: whether to record who takes and drops references.
    :param error_paths: plug each device in the ways that make its realize fail.
    :param sure: run more cycles than ``cycles`` where blocks of memory grow in these.
    """

    qemu: str = "qemu-system-x86_64"
    machine: str = "pc"
    accel: str = "tcg"
    cycles: int = 1
    guest: str | None = None
    start_options: tuple[str, ...] = ()
    bundle: str | None = None
    forecast: bool = False
    layout: str | None = None
    trace: bool = False
    error_paths: bool = False
    sure: bool = False

    def has_cycles(self) -> bool:
        """Whether devices are plugged and unplugged, and not in ways that fail only."""
        return self.cycles > 1 or not self.error_paths

    def has_error_paths(self, job: Job) -> bool:
        """Whether a job's error paths are tried; beside cycles, a device's of the machine alone."""
        beside = job.cpu is not None or ":" in job.driver
        return self.error_paths and not (self.cycles > 1 and beside)

    def json(self) -> dict[str, object]:
        """Return what campaigns and bundles keep."""
        data: dict[str, object] = self._asdict()
        del data["start_options"]
        data.update(hosts=list(self.start_options), bundle=self.bundle or "")
        return {**data, "layout": self.layout or "", "guest": self.guest or "none"}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """Take what :meth:`json` returned, of an older qmr maybe.

        :raises TypeError: it is something else.
        """
        fields = {name: value for name, value in data.items() if name != "hosts"}
        fields["start_options"] = tuple(data["hosts"])
        for name in ("bundle", "layout"):
            fields[name] = fields.get(name) or None
        if fields["guest"] == "none":
            fields["guest"] = None
        return cls(**fields)


class Job(NamedTuple):
    """One driver; ``cpu`` is the CPU model that the VM must be started with, None for any."""

    driver: str
    cpu: str | None = None

    def json(self) -> dict[str, str]:
        """Return what campaigns and bundles keep."""
        return {"driver": self.driver, "cpu": self.cpu or ""}

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> Job:
        """Take what :meth:`json` returned."""
        return cls(data["driver"], data["cpu"] or None)
