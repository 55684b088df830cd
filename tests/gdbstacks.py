"""Run by GDB: stops at addresses and writes down each stop, GDB's own call stack included.

gdb -batch -p PID -ex "python ADDRESSES=[...]; COUNT=500; OUT='...'" -x gdbstacks.py
"""

from __future__ import annotations

import base64
import json
import sys

import gdb

REGISTERS = "rax rbx rcx rdx rsi rdi rbp rsp rip eflags r8 r9 r10 r11 r12 r13 r14 r15".split()
STACK = 8192


def pcs() -> list[int]:
    """Return the addresses of GDB's backtrace; frames that it makes up have none of their own."""
    out = []
    frame = gdb.newest_frame()
    while frame is not None:
        if frame.type() in (gdb.NORMAL_FRAME, gdb.SIGTRAMP_FRAME):
            out.append(frame.pc())
        frame = frame.older()
    return out


def stop() -> dict[str, object]:
    """Describe the stop of the selected thread."""
    frame = gdb.newest_frame()
    registers = {n: int(frame.read_register(n)) & (1 << 64) - 1 for n in REGISTERS}
    stack = b""
    for size in (STACK, 4096, 2048, 1024):
        try:
            stack = bytes(gdb.selected_inferior().read_memory(registers["rsp"], size))
            break
        except gdb.MemoryError:
            continue
    return {
        "registers": [registers[name] for name in REGISTERS],
        "stack": base64.b64encode(stack).decode(),
        "pcs": pcs(),
    }


for line in ("pagination off", "backtrace past-main on", "print thread-events off"):
    gdb.execute(f"set {line}")
ADDRESSES, COUNT, OUT = sys.modules["__main__"].STOPS  # type: ignore[attr-defined]
for number in ADDRESSES:
    gdb.execute(f"break *{number:#x}", to_string=True)
with open(OUT, "w", encoding="utf-8") as out:
    print("ready", flush=True)
    for _ in range(COUNT):
        gdb.execute("continue", to_string=True)
        out.write(json.dumps(stop()) + "\n")
gdb.execute("delete", to_string=True)
gdb.execute("detach", to_string=True)
