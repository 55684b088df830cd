#!/usr/bin/env python3
"""Make a layout profile from a QEMU with debug information.

    tools/make_profile.py QEMU NAME

writes ``qmrinspect/layout/profiles/NAME.json``.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qmrinspect.layout import dwarf, save  # noqa: E402
from qmrinspect.target.elf import ElfFile  # noqa: E402
from qmrinspect.target.process import map_file  # noqa: E402
from qmrinspect.walk import version_of  # noqa: E402


def main(program: str, name: str) -> None:
    elf = ElfFile(memoryview(map_file(program)), program)
    layout = dwarf.from_program(program, elf.build_id(), version_of(elf))
    # A profile is for other builds of the same source: it carries no build id.
    path = ROOT / "qmrinspect" / "layout" / "profiles" / f"{name}.json"
    save(layout._replace(build_id=""), path)
    print(path)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
