"""All verbs
---------

One table serves the command line, the REPL and GDB: a verb that is added here appears in
all of them.  It says what each verb is called and takes; the function that answers lies
in the file of its family, which is imported when the verb runs.
"""

from __future__ import annotations

from .hunt_options import CAMPAIGN, MACHINE, MANY, QEMU, TRACE
from .verb import Argument, Run, Verb, at_least_0, at_least_1, later, seconds

__all__ = ["VERBS"]


def _run(family: str, function: str) -> Run:
    return later(__package__, family, function)


_REPORT = "qmr-report.html"

_OBJECT = Argument(
    ("object",),
    {"metavar": "OBJ", "help": "a QOM path, a device id, the end of a path, or an address"},
    "object",
)
_ALL = Argument(("--all",), {"action": "store_true", "help": "list everything"})

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            "ps",
            "which QEMUs run here: pid, name, machine, version, layout, monitors",
            (),
            _run("ps", "run_ps"),
        ),
        Verb(
            "tree",
            "the QOM tree with type, references observed / expected",
            (
                Argument(
                    ("path",),
                    {"nargs": "?", "metavar": "PATH", "help": "begin at this object"},
                    "path",
                ),
                Argument(
                    ("--depth",),
                    {"type": at_least_0, "metavar": "N", "help": "go no deeper than N levels"},
                ),
                Argument(
                    ("--all",),
                    {
                        "action": "store_true",
                        "help": "list memory regions, irqs and clocks as well",
                    },
                ),
                Argument(
                    ("--outside",),
                    {
                        "action": "store_true",
                        "help": "list the objects outside the tree, and what holds each",
                    },
                ),
            ),
            _run("tree", "run_tree"),
            example="Objects whose references do not balance are always listed, marked with !.",
        ),
        Verb(
            "show",
            "everything known of one object, or of what an address belongs to: its block (live, "
            "freed, not known), and who points there",
            (_OBJECT,),
            _run("tree", "run_show"),
            example="example: qmr show 0x55d0c0de1230",
        ),
        Verb(
            "mtree",
            "memory regions by address space: range, priority, type, owner, alias, references",
            (
                Argument(
                    ("space",),
                    {"nargs": "?", "metavar": "AS", "help": "only this address space"},
                    "space",
                ),
                Argument(("--flat",), {"action": "store_true", "help": "show the flat views"}),
                Argument(
                    ("--disabled",),
                    {"action": "store_true", "help": "show disabled regions as well"},
                ),
            ),
            _run("mtree", "run_mtree"),
            example="example: qmr mtree memory --flat",
        ),
        Verb(
            "refs",
            "every reference held on an object: kind, holder, field, and what is left unexplained",
            (
                _OBJECT,
                Argument(
                    ("--all",),
                    {"action": "store_true", "help": "list every word that points to it as well"},
                ),
            ),
            _run("refs", "run_refs"),
            example="example: qmr refs nic0",
        ),
        Verb(
            "why",
            "why an object is alive: the shortest chain of counted references from a root, or the "
            "cycle that keeps it; and who uses a block node, netdev, chardev or backend",
            (_OBJECT,),
            _run("why", "run_why"),
            example="example: qmr why nic0",
        ),
        Verb(
            "graph",
            "a picture of the references around an object, as DOT text or SVG",
            (
                _OBJECT,
                Argument(
                    ("--depth",),
                    {
                        "type": at_least_0,
                        "default": 2,
                        "metavar": "N",
                        "help": "holders of holders (2)",
                    },
                ),
                Argument(
                    ("-o", "--output"),
                    {
                        "metavar": "FILE",
                        "help": "write it to FILE: SVG (drawn with graphviz) where the name ends "
                        "in .svg, DOT otherwise",
                    },
                    "file",
                ),
                Argument(
                    ("--svg",),
                    {"metavar": "FILE", "help": "write SVG to FILE, whatever its name"},
                    "file",
                ),
            ),
            _run("refs", "run_graph"),
            example="example: qmr graph nic0 -o nic0.svg",
        ),
        Verb(
            "check",
            "the audit: observed against expected for every object, and the findings",
            (),
            _run("check", "run_check"),
            example="The exit code is 1 when anything worse than a note was found.",
        ),
        Verb(
            "orphans",
            "objects alive in memory that the QOM tree no longer holds",
            (_ALL,),
            _run("check", "run_orphans"),
        ),
        Verb(
            "cycles",
            "groups of counted references that hold each other, and which of them an unplug breaks",
            (_ALL,),
            _run("cycles", "run_cycles"),
        ),
        Verb(
            "policy",
            "which reference policy this QEMU follows, and the evidence",
            (),
            _run("policy", "run_policy"),
        ),
        Verb(
            "forecast",
            "what unplugging would do under each policy: finalize, leak (what stays), or abort "
            "(which assertion)",
            (
                Argument(
                    ("object",),
                    {
                        "nargs": "?",
                        "metavar": "OBJ",
                        "help": "a device, plugged or unplugged; without one, all that was "
                        "unplugged and is still there",
                    },
                    "object",
                ),
                Argument(
                    ("--boot",),
                    {
                        "action": "store_true",
                        "help": "every pair of a container and a region of the machine as it runs, "
                        "and what each policy makes of it when the container's owner goes",
                    },
                ),
                Argument(
                    ("--learned",),
                    {
                        "metavar": "FILE",
                        "help": "what qmr hunt --forecast --json saw devices leave, on any QEMU",
                    },
                    "file",
                ),
            ),
            _run("forecast", "run_forecast"),
            example="example: qmr forecast nic0",
        ),
        Verb(
            "layout",
            "where the structure layout came from, and how well it fits this process",
            (
                Argument(
                    ("program",),
                    {
                        "nargs": "?",
                        "metavar": "PROGRAM",
                        "help": "a QEMU with debug information that need not run",
                    },
                    "file",
                ),
                Argument(
                    ("--save",), {"metavar": "FILE", "help": "write the layout into a file"}, "file"
                ),
            ),
            _run("layout", "run_layout"),
        ),
        Verb(
            "save",
            "store a snapshot in a file; a name that ends in .gz or .zst is compressed",
            (Argument(("file",), {"metavar": "FILE"}, "file"),),
            _run("files", "run_save"),
            example="example: qmr save before.gz",
        ),
        Verb(
            "diff",
            "compare two instants, object by object, reference by reference",
            (
                Argument(
                    ("before",), {"metavar": "A", "help": "a snapshot file, or - for now"}, "file"
                ),
                Argument(
                    ("after",),
                    {
                        "nargs": "?",
                        "default": "-",
                        "metavar": "B",
                        "help": "the same; now if left out",
                    },
                    "file",
                ),
            ),
            _run("files", "run_diff"),
            example="example: qmr diff before.gz",
        ),
        Verb(
            "hunt",
            "plug and unplug devices, judge each one by what is left in memory",
            (
                Argument(
                    ("driver",),
                    {
                        "nargs": "*",
                        "metavar": "DRIVER",
                        "help": "device types as for device_add, or object:TYPE, chardev:TYPE, "
                        "netdev:TYPE, block:TYPE, or patterns (quote them: 'virtio-*'); without "
                        "any, all that QEMU can plug",
                    },
                    "driver",
                ),
                *CAMPAIGN,
                *MANY,
                QEMU,
                MACHINE,
            ),
            _run("hunt", "run_hunt"),
            example="qmr hunt intel-hda bochs-display",
        ),
        Verb(
            "demo",
            "a short hunt on a QEMU that qmr starts itself: six devices, one verdict each",
            (TRACE, QEMU, MACHINE),
            _run("hunt", "run_demo"),
            fronts=frozenset(("shell", "repl")),
            example="qmr demo",
        ),
        Verb(
            "report",
            "one HTML page, for offline use, of a hunt or of a check of the target",
            (
                Argument(
                    ("campaign",),
                    {
                        "nargs": "?",
                        "metavar": "CAMPAIGN",
                        "help": "what qmr hunt --campaign saved, or qmr hunt --json printed",
                    },
                    "file",
                ),
                Argument(
                    ("-o", "--output"),
                    {"default": _REPORT, "metavar": "FILE", "help": f"default: {_REPORT}"},
                    "file",
                ),
                Argument(
                    ("--baseline",),
                    {
                        "metavar": "FILE",
                        "help": "an earlier campaign to compare with",
                    },
                    "file",
                ),
                Argument(("--title",), {"help": "of the page"}),
            ),
            _run("campaign", "run_report"),
            fronts=frozenset(("shell", "repl")),
            example="qmr report hunt.sqlite -o hunt.html",
        ),
        Verb(
            "replay",
            "do a finding again on another QEMU; exit code 1: it is there, 0: it is not, "
            "125: it cannot be tested (see git bisect run)",
            (
                Argument(
                    ("bundle",), {"metavar": "BUNDLE", "help": "a finding's directory"}, "file"
                ),
                Argument(
                    ("--qemu",),
                    {"metavar": "PROGRAM", "help": "another QEMU than the bundle's"},
                    "file",
                ),
            ),
            _run("campaign", "run_replay"),
            fronts=frozenset(("shell", "repl")),
            example="git bisect run qmr replay qmr-bundles/intel-hda-leak --qemu "
            "./qemu-system-x86_64",
        ),
        Verb(
            "trace",
            "who takes and who drops each reference, by call stack, while the VM runs: of a live "
            "object, or of a device from its birth",
            (
                Argument(
                    ("object",),
                    {"nargs": "?", "metavar": "OBJ", "help": "follow it until Ctrl-C"},
                    "object",
                ),
                Argument(
                    ("--plug",),
                    {
                        "nargs": "+",
                        "metavar": ("DRIVER", "k=v"),
                        "help": "plug a device, and show who took each reference that is held then",
                    },
                    "driver",
                ),
                Argument(
                    ("--for",),
                    {
                        "dest": "seconds",
                        "type": seconds,
                        "metavar": "SECONDS",
                        "help": "stop after so many seconds",
                    },
                ),
                Argument(
                    ("--tree",),
                    {"action": "store_true", "help": "add the takes and drops by call tree"},
                ),
                Argument(
                    ("--all",),
                    {
                        "action": "store_true",
                        "help": "leave nothing out: every object, every event, what balances",
                    },
                ),
                Argument(
                    ("--folded",),
                    {
                        "action": "store_true",
                        "help": "print folded stacks, for flame graph tools, and nothing else",
                    },
                ),
            ),
            _run("trace", "run_trace"),
            example="example: qmr trace --plug intel-hda --tree",
        ),
        Verb(
            "plug",
            "plug a device, with what it needs behind it, and say what appeared",
            (
                Argument(
                    ("driver",),
                    {"metavar": "DRIVER", "help": "as for device_add, or DRIVER,k=v,..."},
                    "driver",
                ),
                Argument(
                    ("property",),
                    {
                        "nargs": "*",
                        "metavar": "k=v",
                        "help": "its properties, or one JSON object; id=NAME names it; help lists "
                        "them",
                    },
                ),
                Argument(
                    ("--force",),
                    {
                        "action": "store_true",
                        "help": "also where a device that leaked still owns the RAM block or the "
                        "id, and QEMU may abort",
                    },
                ),
            ),
            _run("plug", "run_plug"),
            example="example: qmr plug virtio-net-pci id=nic1",
        ),
        Verb(
            "unplug",
            "unplug a device, acknowledge it in the guest's place if the guest does not, and say "
            "what stayed",
            (
                Argument(("id",), {"metavar": "ID", "help": "the device's id"}, "device"),
                Argument(
                    ("--trace",),
                    {
                        "action": "store_true",
                        "help": "show what dropped its references, and what did not",
                    },
                ),
            ),
            _run("trace", "run_unplug"),
            example="The exit code is 1 when something leaked, or QEMU crashed.",
        ),
        Verb(
            "qmp",
            "run a QMP command",
            (
                Argument(("command",), {"metavar": "CMD"}),
                Argument(("argument",), {"nargs": "*", "metavar": "k=v", "help": "its arguments"}),
            ),
            _run("monitor", "run_qmp"),
            example="example: qmr qmp qom-list path=/machine/peripheral",
        ),
        Verb(
            "hmp",
            "run a line of the human monitor",
            (Argument(("line",), {"nargs": "+", "metavar": "LINE"}),),
            _run("monitor", "run_hmp"),
            example="Quote a line that has options: qmr hmp 'info mtree -f'",
        ),
        Verb(
            "events",
            "print what QEMU announces on its monitor, until interrupted",
            (
                Argument(
                    ("--seconds",), {"type": seconds, "metavar": "N", "help": "end after N seconds"}
                ),
                Argument(
                    ("--count",), {"type": at_least_1, "metavar": "N", "help": "end after N events"}
                ),
            ),
            _run("monitor", "run_events"),
        ),
        Verb(
            "gdb-script",
            "print the path of the script that GDB can source",
            (),
            _run("monitor", "run_gdb_script"),
            frozenset(("shell", "repl")),
            example="example: gdb -p PID -x $(qmr gdb-script)",
        ),
    )
}
