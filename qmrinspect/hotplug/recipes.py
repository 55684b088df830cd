"""Recipes
-------

What a device needs to be plugged without a guest: a bus, what stands behind it, and
properties.  A driver that the catalogue does not name gets the recipe of its bus.

The bus types are QEMU's own (``DeviceClass.bus_type``), as ``info qdm`` prints them.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping
from types import MappingProxyType

from .catalogue import BUS_BY_NAME, ROOT_PORT, RULES, START_OPTIONS
from .kinds import Backend, Driver, NonDevice, Recipe, Rule, StartOption
from .nondevices import MISSING, NON_DEVICES

__all__ = [
    "RULES",
    "START_OPTIONS",
    "Backend",
    "Driver",
    "Recipe",
    "Rule",
    "StartOption",
    "parse_qdm",
    "recipe_for",
    "vm_arguments",
]


def recipe_for(driver: str, known: Mapping[str, Driver] = MappingProxyType({})) -> Recipe:
    """Put together what a driver needs.

    :param driver: the name of its type, as for ``device_add``.
    :param known: what this QEMU has, from :func:`parse_qdm`; a driver that is not in it is
        taken for a PCI device when its name does not say otherwise.
    """
    kind, colon, name = driver.partition(":")
    if colon:
        return _non_device_recipe(kind, name)
    # An alias leads to its driver.
    driver, bus, _ = known.get(driver) or Driver(driver, _guess_bus(driver))
    properties: dict[str, object] = {}
    backends: dict[str, Backend] = {}
    missing: str | None = None
    accel: str | None = None
    start_options: list[str] = []
    for rule in RULES:
        if fnmatch.fnmatchcase(driver, rule.pattern):
            properties.update(rule.properties)
            backends.update((backend.name, backend) for backend in rule.backends)
            missing = rule.missing or missing
            accel = rule.accel or accel
            start_options += rule.start_options
    if driver.endswith("-cpu"):
        start_options.append("cpu")
    return Recipe(
        driver,
        bus,
        properties,
        tuple(backends.values()),
        missing,
        tuple(start_options),
        accel=accel,
    )


def _non_device_recipe(kind: str, name: str) -> Recipe:
    # What is no device; one that the catalogue does not have is tried without arguments.
    known = NON_DEVICES.get(f"{kind}:{name}", NonDevice())
    create, delete, key = _COMMANDS[kind]
    non_device = known.make or Backend(None, "{id}", create, {}, delete, key)
    tag = {"object": "qom-type", "netdev": "type", "block": "driver"}.get(kind)
    if tag:
        non_device = non_device._replace(arguments={tag: name, **non_device.arguments})
    elif "backend" not in non_device.arguments:
        non_device = non_device._replace(arguments={"backend": {"type": name, "data": {}}})
    missing = known.missing or MISSING.get(f"{kind}:{name}")
    return Recipe(
        f"{kind}:{name}",
        kind,
        {},
        known.backends,
        missing,
        known.start_options,
        non_device,
        known.machine,
    )


_COMMANDS = {
    "object": ("object-add", "object-del", "id"),
    "chardev": ("chardev-add", "chardev-remove", "id"),
    "netdev": ("netdev_add", "netdev_del", "id"),
    "block": ("blockdev-add", "blockdev-del", "node-name"),
}


def vm_arguments(needs: Collection[str], machine: str = "pc") -> list[str]:
    """Return QEMU's arguments for a VM that has what recipes need.

    :param needs: types of buses and start options, as of :attr:`Recipe.needs`.
    :param machine: the VM's ``-machine``.
    """
    kind = machine.split(",")[0]
    start_options = [
        option
        for option in START_OPTIONS
        if option.name in needs and option.machine in (None, kind)
    ]
    if "PCI" in needs and "q35" in kind:
        start_options.append(ROOT_PORT)
    return [word for option in start_options for word in option.arguments]


# name "virtio-net-pci", bus PCI, alias "virtio-net", desc "...", no-user
_QDM_LINE = re.compile(
    r'^name "(?P<name>[^"]+)"(?:, bus (?P<bus>[^,\r\n]+))?'
    r'(?:, alias "(?P<alias>[^"]+)")?(?:, desc "[^"\r\n]*")?(?P<hidden>, no-user)?',
    re.MULTILINE,
)


def parse_qdm(text: str) -> dict[str, Driver]:
    """Read what the HMP command ``info qdm`` prints (``qdev_print_devinfo()``).

    :return: the drivers by name; an alias leads to the driver it stands for.
    """
    found: dict[str, Driver] = {}
    for line in _QDM_LINE.finditer(text):
        driver = Driver(line["name"], line["bus"], line["hidden"] is None)
        found[driver.name] = driver
        if line["alias"]:
            found[line["alias"]] = driver
    return found


def _guess_bus(driver: str) -> str | None:
    return next((bus for name, bus in BUS_BY_NAME if fnmatch.fnmatchcase(driver, name)), "PCI")
