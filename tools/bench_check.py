#!/usr/bin/env python3
"""What a check costs, beside a plain walk with GDB.

    tools/bench_check.py QEMU [--rounds N]

Starts QEMU (one with debug information, which GDB's side needs), and measures in
one run, on the same process:

``qmr check``   the whole command: start of Python, reading, audit
``a reading``   in one process that reads again and again
``GDB walk``    attach, walk the QOM tree by ``gdb.Value``, detach: the way that a
                script of a hundred lines does it, without regions, views or buses
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qmrinspect.hotplug.vm import Vm  # noqa: E402
from qmrinspect.reading import Reader  # noqa: E402
from qmrinspect.target.process import Process  # noqa: E402

DEVICES = "virtio-net-pci virtio-blk-pci,drive=d0 e1000e nvme,serial=1 intel-hda".split()

# A recursive walk over child properties, reading one field at a time.  GLib has no
# debug information, so its hash table is read by offsets, as qmr does.
WALK = """
import gdb, json, time
begin = time.perf_counter()
pointer = gdb.lookup_type("unsigned long").pointer()
word32 = gdb.lookup_type("unsigned int").pointer()
prop_type = gdb.lookup_type("ObjectProperty").pointer()
object_type = gdb.lookup_type("Object").pointer()
objects, todo = {}, []
root = gdb.parse_and_eval("(Object *)current_machine")
while int(root["parent"]):
    root = root["parent"]
todo.append(root)
while todo:
    obj = todo.pop()
    if int(obj) in objects:
        continue
    objects[int(obj)] = (obj["class"]["type"]["name"].string(), int(obj["ref"]))
    table = obj["properties"].cast(pointer)
    size, hashes, values = int(table[0]), table[5], table[6]
    big = int(table[3]) & 2
    for i in range(size):
        if int(hashes.cast(word32)[i]) < 2:
            continue
        prop = values.cast(pointer if big else word32)[i].cast(prop_type)
        if prop["type"].string().startswith("child<"):
            todo.append(prop["opaque"].cast(object_type))
print("RESULT", json.dumps({"objects": len(objects), "walk_s": time.perf_counter() - begin}))
"""


def gdb_walk(pid: int) -> tuple[int, float, float]:
    """Return objects seen, seconds of the walk, and seconds that the VM stood.

    :raises LookupError: GDB cannot walk it.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(WALK)
        script.flush()
        command = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off"]
        begin = time.perf_counter()
        done = subprocess.run(
            [*command, "-p", str(pid), "-x", script.name],
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        wall = time.perf_counter() - begin
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    if line is None:
        raise LookupError("GDB cannot walk this QEMU: it has no debug information")
    data = json.loads(line.split(None, 1)[1])
    return data["objects"], data["walk_s"], wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("qemu")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    extra = ["-drive", "if=none,id=d0,driver=null-co,size=1M"]
    extra += [word for device in DEVICES for word in ("-device", device)]
    with Vm(args.qemu, "pc", extra=extra) as vm:
        whole, stops, walls, gdb_walls, gdb_walks, seen = [], [], [], [], [], 0
        process = Process(vm.pid)
        reader = Reader(process)
        reader.read()  # the layout is cached from here on
        for _ in range(args.rounds):
            begin = time.perf_counter()
            command = [sys.executable, "-m", "qmrinspect", str(vm.pid), "check", "--json"]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
            whole.append((time.perf_counter() - begin) * 1000)
            report = json.loads(done.stdout)
            stops.append(report["capture"]["stop_us"] / 1000)
            begin = time.perf_counter()
            reader.check()
            walls.append((time.perf_counter() - begin) * 1000)
            try:
                seen, walk, wall = gdb_walk(vm.pid)
            except LookupError as error:
                sys.exit(f"{error}; tools/build_qemu.py makes one")
            gdb_walks.append(walk * 1000)
            gdb_walls.append(wall * 1000)
        process.close()
    print(f"{report['target']['qemu_version']}, {args.rounds} rounds, medians (least to most):")
    rows = [
        (f"qmr check, {report['objects']} objects, the command", whole),
        ("    the VM stands still for", stops),
        ("a reading and its audit, again and again", walls),
        (f"GDB walk of the tree alone, {seen} objects", gdb_walls),
        ("    the walk itself, while the VM stands still", gdb_walks),
    ]
    for name, values in rows:
        low, high = min(values), max(values)
        print(f"  {name:<48} {statistics.median(values):8.1f} ms  ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
