"""Records a session of the REPL, as it is, into docs/session.md.

Starts a QEMU, types into a REPL on it in a pty, and writes down what its screen shows.
Usage: ``python tools/make_session.py [FILE]``.
"""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from qmrinspect.hotplug.vm import Vm

_REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_REPOSITORY / "tests"))

# The terminal that the tests use; it is no part of the package.
Terminal = importlib.import_module("terminal").Terminal

_HEAD = """# A session

A QEMU with a network card and a USB controller runs; an audio card is plugged and
unplugged, and does not go.  `tools/make_session.py` typed this into `qmr repl`, and wrote
down what the terminal showed; addresses and times differ from run to run.

```
$ qmr demo-vm repl
"""

_DEVICES = ("-device", "virtio-net-pci,id=nic0", "-device", "qemu-xhci,id=xhci0")

# What is typed, and what the screen shows when it has been answered.  A Tab is typed too.
_LINES = (
    ("check", r"^nothing found|^\d+ (error|warning|note)"),
    ("refs ni\t", r"^nic0 .* has"),
    ("mark before", r"^before: "),
    ("plug intel-hda id=sound", r"^sound .* appeared"),
    ("unplug sound", r"^sound .*: \w+"),
    ("orphans", r"^\d+ objects? alive"),
    ("diff before | head -5", r"^\d+ objects? appeared"),
    ("device_add driver=usb-tablet id=tab0 bus=xhci0.0", r"^\{\}"),
    ("device_del id=tab0", r"DEVICE_DELETED.*tab0"),
    ("events DEVICE_* --last 2", r"^[\d:.]+ DEVICE_DELETED"),
    ("info status", r"^VM status"),
)


def _answered(terminal: Any, line: str, pattern: str, begin: int) -> bool:
    lines = terminal.lines[begin:]
    text = "\n".join(lines)
    # The prompt is there again, and nothing runs.
    idle = "Ctrl-C" not in terminal.bar
    return idle and re.search(pattern, text, re.M) is not None


def record() -> str:
    """Run the session and return it as Markdown."""
    extra = ("-name", "demo-vm", *_DEVICES)
    with (
        tempfile.TemporaryDirectory() as home,
        Vm(extra=extra),
        Terminal("demo-vm", "repl", home=Path(home), rows=50, columns=110) as terminal,
    ):
        terminal.wait(lambda t: "prelaunch" in t.bar, "the VM in the status bar")
        for line, pattern in _LINES:
            begin = _last_row(terminal)
            if "\t" in line:
                before, _, _ = line.partition("\t")
                terminal.type(line)
                terminal.wait(lambda t, b=before: re.search(f"> {b}\\w", t.text) is not None)
                terminal.enter()
            else:
                terminal.enter(line)
            terminal.wait(lambda t, a=(line, pattern, begin): _answered(t, *a), line)
            terminal.pump(0.3)
        bar = terminal.bar
        body = "\n".join(terminal.lines).split(bar)[0].rstrip()
        body = re.sub(r"\n\S+>$", "", body)
        return f"{_HEAD}{body}\n```\n\nThe status bar at its end:\n\n```\n{bar}\n```\n"


def _last_row(terminal: Any) -> int:
    lines = terminal.lines
    return max((at for at, line in enumerate(lines) if re.match(r"\S+>", line)), default=0)


def main() -> None:
    """Write the file."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else _REPOSITORY / "docs" / "session.md"
    text = record()
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    print(f"{file} has {text.count(chr(10))} lines")


if __name__ == "__main__":
    main()
