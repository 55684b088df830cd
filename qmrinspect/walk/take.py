"""Taking a snapshot
-----------------
"""

from __future__ import annotations

import os
import re
import shlex
from functools import lru_cache

from ..errors import LayoutError, ReadingError, TargetError
from ..layout import Layout
from ..layout.advice import no_names
from ..layout.dwarf import DebugInfo, debug_info
from ..layout.schema import SYMBOLS
from ..masking import masked_words
from ..records.context import Context, Known, Statics
from ..records.glib import probe
from ..snapshot import Snapshot, TargetInfo, Unknown, View
from ..target.elf import PT_LOAD, ElfFile
from ..target.image import Capture, Image, Mapping, Ranges, Target, Unreadable
from ..target.instant import Choose, Stoppable
from ..tuples import NamedTuple
from . import declared, memory, plan, qdev, qom, quiet, rcu
from .classes import read_classes
from .inuse import leave_out_freed
from .unplugging import read_unplugging
from .validate import SIZED_TYPES, check_sizes

__all__ = [
    "Program",
    "capture",
    "chooser",
    "decode",
    "open_context",
    "program_of",
    "settled",
    "statics_of",
    "take",
    "version_of",
]

# Of a command line so many characters are kept.
_COMMAND_MAX = 16384

# Where every walk begins.
_NEEDED = ("current_machine", "address_space_memory")
_VERSION = re.compile(rb"QEMU emulator version ([^\n\0]{1,120})")


class Program(NamedTuple):
    """What the program's file says, the same for every reading of a process.

    ``info`` lacks what a reading adds: the machine and the layout.
    """

    statics: Statics
    info: TargetInfo


def program_of(target: Target, debug: DebugInfo | None = None) -> Program:
    """Read the program's file; takes and raises what :func:`statics_of` does."""
    statics, elf = statics_of(target, debug), target.elf()
    info = TargetInfo(
        target.kind,
        target.pid,
        target.exe,
        elf.build_id(),
        version_of(elf),
        "",
        "",
        os.uname().nodename if target.kind == "process" else "",
        shlex.join(masked_words(target.argv))[:_COMMAND_MAX],
    )
    return Program(statics, info)


def statics_of(target: Target, debug: DebugInfo | None = None) -> Statics:
    """Locate the symbols and the data of a target's program.

    :param debug: its debug information, where that has been opened.
    :raises TargetError: when the program is no QEMU that can be read.
    """
    elf, base = target.elf(), target.base()
    tried: list[str] = []
    found = (debug or debug_info(target)).symbols(SYMBOLS, _NEEDED, tried.append)
    symbols = {name: [base + value for value in values] for name, values in found.items()}
    if not symbols.keys() >= set(_NEEDED):
        if version_of(elf):
            raise no_names(target, tried)
        raise TargetError(f"{target.exe} is not a QEMU system emulator", "qmr ps lists those")
    writable = [s for s in elf.segments if s.type == PT_LOAD and s.flags & 2]
    low = min(s.vaddr for s in writable)
    high = max(s.vaddr + s.memsz for s in writable)
    # What rewrites a program (patchelf) may have given it another writable segment.
    zeros = max(writable, key=lambda s: s.memsz - s.filesz)
    start = base + elf.load_base()
    return Statics(
        symbols,
        (base + zeros.vaddr + zeros.filesz, base + zeros.vaddr + zeros.memsz),
        (base + low, base + high),
        (start, base + high),
    )


@lru_cache(maxsize=4)
def version_of(elf: ElfFile) -> str:
    """Return the version text that the program prints, empty when it has none."""
    # It is a constant; only where no section has that name all of the file is searched.
    match = _VERSION.search(elf.section(".rodata")) or _VERSION.search(elf.data)
    return match.group(1).decode("ascii", "replace") if match else ""


def chooser(target: Target, layout: Layout, statics: Statics) -> Choose:
    """Return what says which memory a walk may need.

    It raises :class:`ReadingError` when the guest's memory cannot be told from QEMU's own.
    """

    def choose(mappings: list[Mapping]) -> Ranges:
        ram = plan.guest_ram(target.peek, layout, statics.first("ram_list"))
        return plan.ranges(mappings, ram)

    return choose


def capture(target: Target, layout: Layout, statics: Statics) -> tuple[Image, Capture]:
    """Copy what a walk may need, in one stop.

    :raises ReadingError: when the guest's memory cannot be told from QEMU's own.
    """
    choose = chooser(target, layout, statics)
    if isinstance(target, Stoppable):
        return target.capture_all(choose)
    mappings = target.mappings()
    image, cost = target.capture(choose(mappings))
    image.mappings = mappings
    return image, cost


def open_context(
    image: Image, layout: Layout, statics: Statics, known: Known | None = None
) -> tuple[Context, int]:
    """Find the way in: the GLib variant and the machine object.

    :raises LayoutError: when the layout does not fit.
    """
    missing = layout.missing()
    if missing:
        raise LayoutError(f"the layout {layout.source} lacks {', '.join(missing)}")
    try:
        machine = image.u64(statics.first("current_machine"))
        if not machine:
            raise ReadingError("this QEMU has no machine yet", "try again when it has started")
        variant = probe(image, image.u64(machine + layout.offset("Object", "properties")))
    except Unreadable as error:
        raise LayoutError(
            f"the layout {layout.source} does not fit: the machine object leads out of memory "
            f"at {error.args[0]:#x}"
        ) from None
    return Context(image, layout, statics, variant, known), machine


def settled(image: Image, layout: Layout, statics: Statics) -> bool:
    """Whether an image is of a quiet moment, which shows before it is walked.

    Raises as :func:`open_context` does.
    """
    context, _ = open_context(image, layout, statics)
    return quiet.state_of(context).settled and not rcu.queued(context)


def decode(
    image: Image,
    cost: Capture,
    layout: Layout,
    statics: Statics,
    info: TargetInfo,
    known: Known | None = None,
) -> tuple[Snapshot, Context]:
    """Walk a captured image.

    :return: the snapshot, and the context for a later search in the same image.

    :raises ReadingError: when the structures the walk starts from make no sense.
    :raises LayoutError: when the layout does not fit.
    """
    context, machine = open_context(image, layout, statics, known)
    try:
        root = qom.find_root(context, machine)
        classes = read_classes(context)
        sizes = check_sizes(context.types, layout)
        if not sizes.ok:
            raise LayoutError(f"{sizes.name}: {sizes.detail}")
        context.handles = qom.find_handles(context, classes, root)
    except Unreadable as error:
        raise ReadingError(
            f"the QOM tree leads out of memory at {error.args[0]:#x}", "see qmr layout"
        ) from None
    objects = qom.read_objects(context, classes)
    leave_out_freed(context, objects)
    props = tuple(qom.read_props(context, classes, objects))
    devices = qdev.read_devices(context, objects)
    gpios = tuple(qdev.read_gpios(context, devices))
    clocks = tuple(qdev.read_clocks(context, devices))
    buses = qdev.read_buses(context, objects)
    regions = memory.read_regions(context, objects)
    spaces, listeners = memory.read_spaces(context, statics.first("address_space_memory"))
    views = _views(context, [space.view for space in spaces.values()])
    pending = rcu.read_pending(context, views, objects)
    if pending is None and rcu.has_queue(context):
        context.note(statics.first("call_rcu1"), "the queue of RCU callbacks was not found")
    fields = tuple(declared.read_declared(context, objects, spaces, listeners))
    for address in {f.target for f in fields if f.kind == "flatview-user"} - views.keys():
        view = memory.read_view(context, address, "field")
        if view is not None:
            views[address] = view
    if image.left_out:
        why = f"{image.left_out >> 20} MB of memory in use are too many to be searched"
        context.unknown.append(Unknown("memory", why))
    complete = bool(layout.build_id) and layout.build_id == info.build_id
    unsearched = declared.unsearched(context, complete and layout.source != "inferred")
    is_quiet = quiet.state_of(context, objects).settled and not pending
    unplugging = tuple(read_unplugging(context, objects, devices, buses, regions, props, fields))
    used = {obj.type for obj in objects.values()} | SIZED_TYPES.keys() & context.types.keys()
    for name in list(used):
        while name in context.types and context.types[name].parent not in used | {""}:
            name = context.types[name].parent
            used.add(name)
    machine_type = objects[machine].type if machine in objects else ""
    snapshot = Snapshot(
        target=info._replace(machine=re.sub("-machine$", "", machine_type)),
        capture=cost._replace(quiescent=is_quiet),
        types={name: info for name, info in context.types.items() if name in used},
        objects=objects,
        props=props,
        devices=devices,
        gpios=gpios,
        clocks=clocks,
        buses=buses,
        regions=regions,
        spaces=spaces,
        listeners=listeners,
        views=views,
        pending=tuple(pending or ()),
        fields=fields,
        notes=tuple(context.notes),
        unsearched=unsearched,
        unknown=tuple(context.unknown),
        unplugging=unplugging,
    )
    return snapshot, context


def _views(context: Context, current: list[int]) -> dict[int, View]:
    views: dict[int, View] = {}
    table = memory.table_views(context, current)
    for found, addresses in (("space", current), ("table", table)):
        for address in addresses:
            if address and address not in views:
                view = memory.read_view(context, address, found)
                if view is not None:
                    views[address] = view._replace(tabled=table.count(address))
    return views


def take(target: Target, layout: Layout, known: Known | None = None) -> tuple[Snapshot, Context]:
    """Take a snapshot of ``target`` under a layout.

    :param known: from an earlier reading of the target under this layout.
    :raises TargetError: when the target cannot be read.
    :raises LayoutError: when the layout does not fit.
    :raises ReadingError: when no picture came out of it.
    """
    statics, info = program_of(target)
    image, cost = capture(target, layout, statics)
    return decode(image, cost, layout, statics, info._replace(layout=layout.source), known)
