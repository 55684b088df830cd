#!/usr/bin/env python3
"""Make the anchors of a layout profile from a QEMU that it fits.

    tools/make_anchors.py QEMU NAME

starts QEMU with a machine full of devices, and writes what its own tables name to
``qmrinspect/layout/profiles/NAME.anchors.gz``: by them the layout of a QEMU without a
profile is inferred.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qmrinspect.hotplug.device_set_vm import DeviceSetVm  # noqa: E402
from qmrinspect.infer.anchors import Anchors, TypeAnchors, reduced, save  # noqa: E402
from qmrinspect.infer.core import open_core  # noqa: E402
from qmrinspect.infer.homes import home, qom_types  # noqa: E402
from qmrinspect.infer.tables import read_anchors  # noqa: E402
from qmrinspect.layout import Layout, load  # noqa: E402
from qmrinspect.target.process import Process  # noqa: E402
from qmrinspect.walk import capture, program_of  # noqa: E402

_MACHINES = ("q35", "pc")


def read(program: str, machine: str, layout: Layout) -> Anchors:
    """Return the anchors of one machine."""
    with DeviceSetVm("mixed", program, machine) as vm, closing(Process(vm.vm.pid)) as target:
        statics = program_of(target).statics
        image, _ = capture(target, layout, statics)
        core = open_core(image, statics, layout, target.mappings())
        return read_anchors(core, target.elf())


def merged(parts: list[Anchors]) -> Anchors:
    """Put the anchors of several machines of one QEMU together."""
    types: dict[str, TypeAnchors] = {}
    for part in parts:
        for name, row in part.types.items():
            old = types[name].offsets if name in types else {}
            types[name] = row._replace(offsets={**row.offsets, **old})
    return Anchors(types, parts[0].code)


def main(program: str, name: str) -> None:
    profiles = ROOT / "qmrinspect" / "layout" / "profiles"
    layout = load(profiles / f"{name}.json", name)
    anchors = merged([read(program, machine, layout) for machine in _MACHINES])
    for struct, row in layout.structs.items():
        where = home(layout.structs, struct, anchors.types)
        if where is not None and not where.offset and anchors.size(where.type) != row.size:
            print(
                f"{struct} has {row.size} bytes in {name}, {anchors.size(where.type)} in {program}"
            )
    path = profiles / f"{name}.anchors.gz"
    save(reduced(anchors, qom_types()), path)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
