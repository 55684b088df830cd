"""Devices and buses
-----------------
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..records.context import LIST_MAX, Context
from ..snapshot import Bus, BusChild, Clock, Device, GpioList, Obj
from ..target.image import Unreadable

__all__ = ["CLOCK_FIELDS", "GPIO_FIELDS", "read_buses", "read_clocks", "read_devices", "read_gpios"]

#: What a device's lists need: the head, the link, then the rest.
GPIO_FIELDS = (
    "DeviceState.gpios NamedGPIOList.node NamedGPIOList.name NamedGPIOList.in NamedGPIOList.num_in"
)
CLOCK_FIELDS = (
    "DeviceState.clocks NamedClockList.node NamedClockList.name NamedClockList.clock "
    "NamedClockList.output NamedClockList.alias"
)

# The largest GPIO array in QEMU has a few thousand lines.
_GPIO_MAX = 1 << 16


def read_devices(context: Context, objects: Mapping[int, Obj]) -> dict[int, Device]:
    """Read the ``DeviceState`` part of every device."""
    out = {}
    for address, obj in objects.items():
        if not context.is_a(obj.type, "device"):
            continue
        try:
            state = context.record("DeviceState", address)
        except Unreadable:
            context.note(address, "a device cannot be read")
            continue
        out[address] = Device(
            address,
            context.string(state["id"]),
            bool(state.get("realized")),
            bool(state.get("hotplugged")),
            bool(state.get("pending_deleted_event")),
            state["parent_bus"],
        )
    return out


def _lists(context: Context, device: int, fields: str) -> Iterator[int]:
    if not all(context.layout.has(*field.split(".")) for field in fields.split()):
        return
    head, node = fields.split()[:2]
    struct = node.partition(".")[0]
    first = context.image.u64(device + context.layout.offset(*head.split(".")))
    yield from context.queue(first, context.layout.offset(struct, "node"), struct)


def read_gpios(context: Context, devices: Mapping[int, Device]) -> Iterator[GpioList]:
    """Yield the ``NamedGPIOList`` structures of every device (hw/core/gpio.c)."""
    for device in devices:
        for at in _lists(context, device, GPIO_FIELDS):
            try:
                row = context.record("NamedGPIOList", at)
                count = row.signed("num_in")
                if not 0 <= count <= _GPIO_MAX:
                    context.note(at, f"a GPIO list claims {count} inputs")
                    continue
                inputs = context.image.words(row["in"], count) if count else ()
            except Unreadable:
                context.note(at, "a GPIO list cannot be read")
                continue
            yield GpioList(at, device, context.string(row["name"]), inputs)


def read_clocks(context: Context, devices: Mapping[int, Device]) -> Iterator[Clock]:
    """Yield the ``NamedClockList`` entries of every device (hw/core/qdev-clock.c)."""
    for device in devices:
        for at in _lists(context, device, CLOCK_FIELDS):
            try:
                row = context.record("NamedClockList", at)
            except Unreadable:
                context.note(at, "a clock list cannot be read")
                continue
            yield Clock(
                at,
                device,
                context.string(row["name"]),
                row["clock"],
                bool(row["output"]),
                bool(row["alias"]),
            )


def read_buses(context: Context, objects: Mapping[int, Obj]) -> dict[int, Bus]:
    """Read the ``BusState`` part of every bus, with its ``BusChild`` structures."""
    out = {}
    next_child = context.layout.offset("BusChild", "sibling")
    for address, obj in objects.items():
        if not context.is_a(obj.type, "bus"):
            continue
        try:
            state = context.record("BusState", address)
        except Unreadable:
            context.note(address, "a bus cannot be read")
            continue
        children = []
        for at in context.queue(state.ptr("children"), next_child, "bus children"):
            try:
                child = context.record("BusChild", at)
            except Unreadable:
                context.note(at, "a bus child cannot be read")
                continue
            children.append(
                BusChild(at, child["child"], child.signed("index") if "index" in child else -1)
            )
            if len(children) > LIST_MAX:
                break
        out[address] = Bus(address, context.string(state["name"]), state["parent"], tuple(children))
    return out
