#!/usr/bin/env python3
"""Make the layout profiles that ship with qmr.

    tools/make_profile.py                 # all of them, from what tools/build_qemu.py builds
    tools/make_profile.py NAME QEMU...    # one, from QEMUs of one source with debug information

writes ``qmrinspect/layout/profiles/NAME.json``.  Of several emulators of one source, each
gives the structures that the ones before it lack.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from build_qemu import AS_IT_IS, RECIPES, TARGETS, Builder  # noqa: E402

from qmrinspect.fitting import program_layout  # noqa: E402
from qmrinspect.layout import Layout, Struct, save  # noqa: E402

PROFILES = ROOT / "qmrinspect" / "layout" / "profiles"


def join(layouts: Sequence[Layout]) -> Layout:
    """Return one layout with the structures of all, the first one's where they differ."""
    structs: dict[str, Struct] = {}
    for layout in reversed(layouts):
        structs.update(layout.structs)
    # A profile is for other builds of the same source: it carries no build id.
    return layouts[0]._replace(structs=structs, build_id="")


def write(name: str, layout: Layout) -> None:
    path = PROFILES / f"{name}.json"
    save(layout, path)
    print(path)


def write_all() -> None:
    """Build what the profiles are made from, and replace them."""
    layouts = []
    for family in RECIPES:
        programs = [str(Builder(family, target, AS_IT_IS).build(False)) for target in TARGETS]
        layouts.append(join([program_layout(program) for program in programs]))
    for old in PROFILES.glob("*.json"):
        old.unlink()
    for layout in layouts:
        write(layout.version, layout)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        write_all()
    elif len(sys.argv) > 2:
        write(sys.argv[1], join([program_layout(program) for program in sys.argv[2:]]))
    else:
        sys.exit(__doc__)
