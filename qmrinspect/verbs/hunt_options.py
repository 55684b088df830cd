"""Options of a hunt
-----------------

The options of ``hunt``; ``demo`` hunts with their defaults.
"""

from __future__ import annotations

from .verb import Argument, at_least_1

__all__ = [
    "CAMPAIGN",
    "DEFAULT_ACCEL",
    "DEFAULT_MACHINE",
    "MACHINE",
    "MANY",
    "PROGRAM",
    "QEMU",
    "TRACE",
]

#: The QEMU that is hunted on where none is named.
PROGRAM = "qemu-system-x86_64"
QEMU = Argument(
    ("--qemu",),
    {"metavar": "PROGRAM", "help": f"QEMU to start (default: {PROGRAM})"},
)
DEFAULT_MACHINE = "pc"
DEFAULT_ACCEL = "tcg"
MACHINE = Argument(("--machine",), {"help": f"QEMU's machine type (default: {DEFAULT_MACHINE})"})


def _guest(text: str) -> str | None:
    return None if text == "none" else text


def _file(name: str, help: str) -> Argument:
    return Argument((name,), {"metavar": "FILE", "help": help}, "file")


TRACE = Argument(
    ("--trace",),
    {
        "action": "store_true",
        "help": "record who takes and drops references, and end each finding with the line that "
        "took what is still held",
    },
)
CAMPAIGN = (
    TRACE,
    Argument(
        ("--forecast",),
        {
            "action": "store_true",
            "help": "hold each device by a link for one more reading, and say exactly what its "
            "unplug would do under each policy",
        },
    ),
    Argument(
        ("--error-paths",),
        {
            "action": "store_true",
            "help": "plug each device in the ways that make its realize fail (values out of range, "
            "a backend that is missing, a slot that is taken), and judge what stays",
        },
    ),
    Argument(
        ("--cycles",), {"type": at_least_1, "default": 1, "help": "times to plug each device"}
    ),
    Argument(
        ("--yes",),
        {
            "action": "store_true",
            "help": "on a VM that runs: hunt devices that are known to leak, too; what leaks stays "
            "for good",
        },
    ),
    Argument(("--accel",), {"help": f"QEMU's accelerator (default: {DEFAULT_ACCEL})"}),
    Argument(
        ("--guest",),
        {
            "type": _guest,
            "metavar": "none|linux|PID",
            "help": "who acknowledges an unplug: nobody, so that qmr does it in the guest's place; "
            "a Linux guest (KERNEL:INITRD names another one); or the guest of a VM that runs",
        },
    ),
    Argument(
        ("--cpus",),
        {
            "choices": ("all", "own"),
            "help": "the CPU models: all, each in a VM of its own (default without a guest), or "
            "the machine's own",
        },
    ),
    Argument(
        ("--jobs",),
        {
            "type": at_least_1,
            "metavar": "N",
            "help": "VMs at once, if there is memory for them (default: two a core, three with "
            "--error-paths, one with a guest)",
        },
    ),
    Argument(
        ("--dask",),
        {"metavar": "ADDRESS", "help": "hunt on a cluster: tcp://SCHEDULER"},
    ),
    _file("--campaign", "save the results in FILE, or go on from what it has"),
    _file("--baseline", "compare with an earlier campaign: only new findings fail"),
    _file("--expect", "rules for known findings, each with its reason"),
    _file("--junit", "write a JUnit report"),
    Argument(
        ("--bundle",),
        {"metavar": "DIR", "help": "put the evidence of each finding there"},
        "file",
    ),
)

# Hunts on more than one QEMU.
MANY = (
    Argument(
        ("--introspect",),
        {
            "action": "store_true",
            "help": "make and drop every device type of every emulator that is installed, or of "
            "--qemu, and judge what stays",
        },
    ),
    Argument(
        ("--policies",),
        {
            "action": "store_true",
            "help": "hunt on several builds, and compare the forecast of each with what happened",
        },
    ),
    Argument(
        ("--builds",),
        {
            "metavar": "PROGRAM,...",
            "help": "for --policies (default: what tools/build_qemu.py has made)",
        },
        "file",
    ),
)
