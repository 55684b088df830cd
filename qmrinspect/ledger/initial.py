"""First references
----------------

The reference that came with ``object_new`` or ``object_initialize`` and that was
never handed on.  Where the field that keeps it is known it is an explanation;
where a rule of QEMU grants it and the field is not visible here, it is counted apart.
"""

from __future__ import annotations

from collections.abc import Iterator

from .. import references
from ..index import Index
from .edges import Edge, Rule
from .fields import declared
from .policies import Policy

__all__ = ["KINDS", "RULES"]

RULES = (
    Rule(
        "irq-allocated",
        "an irq from qemu_allocate_irq keeps its first reference until qemu_free_irq",
        "hw/core/irq.c qemu_allocate_irq, qemu_free_irq",
        forever=False,
    ),
    Rule(
        "irq-embedded",
        "an irq from qemu_init_irq keeps its first reference for as long as what embeds it",
        "hw/core/irq.c qemu_init_irq (10.0)",
        forever=False,
    ),
    Rule(
        "static-root",
        "a function's static variable keeps the root of a tree",
        "qom/object.c object_get_root, object_get_internal_root",
    ),
    Rule(
        "main-system-bus",
        "the static main_system_bus keeps the bus it made, which is given a parent later",
        "hw/core/sysbus.c main_system_bus_create",
    ),
    Rule(
        "static-region",
        "a region without owner, name and parent is a static variable or belongs to nobody",
        "system/physmem.c io_mem_init",
    ),
    Rule(
        "migration",
        "the static current_migration keeps the migration object",
        "migration/migration.c migration_object_init",
    ),
    Rule(
        "reset-root",
        "a function's static variable keeps the root of all resets",
        "hw/core/reset.c get_root_reset_container",
    ),
    Rule(
        "portio-list",
        "a PortioList keeps the object of each of its ranges",
        "system/ioport.c portio_list_add_1, portio_list_destroy (10.0)",
        forever=False,
    ),
    Rule(
        "board-object",
        "a board keeps what it made with object_new or qdev_new and gave a parent: nothing drops "
        "the first reference",
        "hw/arm/mcimx7d-sabre.c mcimx7d_sabre_init, hw/arm/mps2.c mps2_common_init, "
        "hw/arm/versatilepb.c versatile_init (7.2), hw/arm/stellaris.c stellaris_init (10.0)",
    ),
    Rule(
        "hidden-card",
        "a controller that is no object keeps both references of the SD card that it hid from the "
        "tree",
        "hw/sd/sd.c sd_init (until 10.0)",
        hides=True,
    ),
    Rule(
        "dns-resolver",
        "a static variable keeps the one resolver",
        "io/dns-resolver.c qio_dns_resolver_get_instance",
    ),
)

# Types whose only instance a variable keeps, and the rule that says so.
_SINGLETONS = {
    "System": "main-system-bus",
    "migration": "migration",
    "resettable-container": "reset-root",
    "qio-dns-resolver": "dns-resolver",
}


# In 10.0 a device keeps the first reference of its output clocks too (hw/core/qdev-clock.c
# qdev_init_clock_out), in 7.2 it dropped it; the structure is the same.
_OUTPUTS = "a device keeps the first reference of its output clocks"
_CONNECTED = "non-qdev-gpio["
# What every machine is given, and QEMU takes references on (system/vl.c create_default_containers).
_OF_EVERY_MACHINE = ("unattached", "peripheral", "peripheral-anon")


def _named(index: Index) -> Iterator[Edge]:
    """The first references that a named field is seen to keep."""
    snapshot = index.snapshot
    for field in index.fields("initial"):
        if not _handed_on(index, field.target):
            holder = index.enclosing(field.holder)
            yield Edge("initial", field.target, field.holder, holder, field.field)
    for gpio in snapshot.gpios:
        for i, irq in enumerate(gpio.inputs):
            if irq in snapshot.objects:
                yield Edge(
                    "initial",
                    irq,
                    gpio.address,
                    gpio.device,
                    f'NamedGPIOList "{gpio.name}".in[{i}]',
                )
    for clock in snapshot.clocks:
        if not clock.alias:
            question = _OUTPUTS if clock.output else ""
            yield Edge(
                "initial",
                clock.clock,
                clock.address,
                clock.device,
                "NamedClockList.clock",
                question=question,
            )


def _handed_on(index: Index, address: int) -> bool:
    """Whether an embedded irq is a child that its first reference was given to.

    qemu_init_irq_child (10.2, hw/core/irq.c) makes it one.  One without a parent that is
    connected to a line gets /machine/unattached for its parent (hw/core/gpio.c
    qdev_connect_gpio_out_named), and keeps the first reference.
    """
    obj = index.snapshot.objects.get(address)
    if obj is None or obj.type != "irq" or obj.heap or not obj.parent:
        return False
    named = index.name_of.get(address)
    return named is None or not named.name.startswith(_CONNECTED)


def _initial(index: Index, policy: Policy) -> Iterator[Edge]:
    # An object comes with one first reference, however many fields point to it.
    kept = set()
    for edge in _named(index):
        if edge.target not in kept:
            kept.add(edge.target)
            yield edge
    snapshot = index.snapshot
    for address in snapshot.objects:
        if address in kept:
            continue
        if _hidden(index, address):
            grants = RULES_BY_NAME["hidden-card"].grants
            yield from [Edge("initial", address, 0, 0, grants, rule="hidden-card")] * 2
            continue
        rule = _rule(index, address)
        question = ""
        if not rule and _of_board(index, address):
            rule = "board-object"
            question = f"the board keeps its {snapshot.objects[address].type}"
        if rule:
            grants = RULES_BY_NAME[rule].grants
            yield Edge("initial", address, 0, 0, grants, rule=rule, question=question)


def _of_board(index: Index, address: int) -> bool:
    """Whether an object is a device, or a container for some, that a board made for itself.

    A device that is embedded got its first parent when it was realized (hw/core/qdev.c
    device_set_realized).  The boards of x86 drop what they do not hand on, or have a field
    for it.
    """
    snapshot = index.snapshot
    obj, device = snapshot.objects[address], snapshot.devices.get(address)
    named = index.name_of.get(address)
    if not obj.parent or index.is_a(index.machine, "x86-machine"):
        return False
    if device is None:
        return (
            obj.type == "container"
            and obj.parent != index.root
            and named is not None
            and named.name not in _OF_EVERY_MACHINE
        )
    if device.hotplugged or device.id:
        return False
    return obj.heap or (named is not None and named.name.startswith("device["))


def _hidden(index: Index, address: int) -> bool:
    """Whether an object is a card of sd_init, which takes it out of the tree."""
    obj, device = index.snapshot.objects[address], index.snapshot.devices.get(address)
    return (
        obj.type == "sd-card"
        and device is not None
        and not (obj.parent or device.parent_bus or device.realized)
        and not index.is_a(index.machine, "x86-machine")
    )


def _rule(index: Index, address: int) -> str:
    snapshot = index.snapshot
    obj = snapshot.objects[address]
    if obj.type == "irq":
        if obj.heap:
            # Where nothing in live memory points to it any more, nobody is left to free it.
            return "irq-allocated" if index.pointed(address) else ""
        return "" if _handed_on(index, address) else "irq-embedded"
    if obj.type == "container" and not obj.parent:
        return "static-root"
    if obj.type == "memory-region-portio-list":
        return "portio-list"
    region = snapshot.regions.get(address)
    if region is not None:
        alone = not region.owner and not region.name and not obj.parent
        return "static-region" if alone and region.kind != "subpage" else ""
    return _SINGLETONS.get(obj.type, "")


def _reset(index: Index, policy: Policy) -> Iterator[Edge]:
    # Devices and buses in the list are not referenced by it, only what stands for
    # a plain reset handler is.
    for field in index.fields("reset"):
        obj = index.snapshot.objects.get(field.target)
        if obj is not None and not obj.parent:
            yield Edge("reset", field.target, field.holder, field.holder, field.field)


RULES_BY_NAME = {rule.name: rule for rule in RULES}

_DECLARED = {kind.name: kind for kind in references.KINDS}

KINDS = (
    declared(_DECLARED["initial"], _initial),
    declared(_DECLARED["reset"], _reset),
)
