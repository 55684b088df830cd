#!/usr/bin/env python3
"""Plug a device, unplug it, and say what remained in memory and why.

    examples/what_remained.py [DRIVER] [QEMU]

Uses qmr as a library, step by step; ``qmr hunt DRIVER`` does the same.
"""

from __future__ import annotations

import sys

from qmrinspect.audit import check
from qmrinspect.audit.cause import describe
from qmrinspect.hotplug.recipes import recipe_for, vm_arguments
from qmrinspect.hotplug.unplug import plug, unplug
from qmrinspect.hotplug.vm import Vm
from qmrinspect.reading import Reader
from qmrinspect.target.process import Process


def main(driver: str = "bochs-display", qemu: str = "qemu-system-x86_64") -> int:
    recipe = recipe_for(driver)
    with Vm(qemu, "pc", extra=vm_arguments(recipe.needs)) as vm, vm.monitor() as monitor:
        reader = Reader(Process(vm.pid))
        plugged = plug(monitor, recipe, "dut")
        address = check(reader.read()).book.index.resolve("dut").address
        print(f"{driver} is plugged: {plugged.path} at {address:#x}")
        cycle = unplug(monitor, plugged)
        print(f"DEVICE_DELETED came: {'yes' if cycle.event else 'no'}")

        report = check(reader.read())
        book = report.book
        if address not in book.index.snapshot.objects:
            print("it was finalized, nothing remained")
            return 0
        print(f"it is still alive, with {book.index.snapshot.objects[address].ref} references:")
        for edge in book.on[address]:
            print(f"  {describe(book, edge)}")
        for finding in report.findings:
            print(f"{finding.kind}: {finding.text}")
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
