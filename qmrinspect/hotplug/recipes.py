"""Recipes
-------

What a device needs to be plugged without a guest: a bus, what stands behind it, and
properties.  A driver that the catalogue does not name gets the recipe of its bus.

The bus types are QEMU's own (``DeviceClass.bus_type``), as ``info qdm`` prints them.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping

from .catalogue import BUS_BY_NAME, HOSTS, ROOT_PORT, RULES
from .kinds import Backend, Driver, Host, Recipe, Rule, Subject
from .subjects import OUTSIDE, SUBJECTS

__all__ = [
    "HOSTS",
    "RULES",
    "Backend",
    "Driver",
    "Host",
    "Recipe",
    "Rule",
    "parse_qdm",
    "recipe_for",
    "vm_arguments",
]


def recipe_for(driver: str, drivers: Iterable[Driver] | Mapping[str, Driver] = ()) -> Recipe:
    """Put together what a driver needs.

    :param driver: the name of its type, as for ``device_add``.
    :param drivers: what this QEMU has, from :func:`parse_qdm`; a driver that is not in it is
        taken for a PCI device when its name does not say otherwise.
    """
    kind, colon, name = driver.partition(":")
    if colon:
        return _subject_recipe(kind, name)
    known = drivers if isinstance(drivers, Mapping) else {item.name: item for item in drivers}
    # An alias leads to its driver.
    driver, bus, _ = known.get(driver) or Driver(driver, _guess_bus(driver))
    properties: dict[str, object] = {}
    backends: dict[str, Backend] = {}
    outside = accel = ""
    hosts: list[str] = []
    for rule in RULES:
        if fnmatch.fnmatchcase(driver, rule.pattern):
            properties.update(rule.properties)
            backends.update((backend.name, backend) for backend in rule.backends)
            outside = rule.outside or outside
            accel = rule.accel or accel
            hosts += rule.hosts
    if driver.endswith("-cpu"):
        hosts.append("cpu")
    return Recipe(
        driver, bus, properties, tuple(backends.values()), outside, tuple(hosts), accel=accel
    )


def _subject_recipe(kind: str, name: str) -> Recipe:
    # What is no device; one that the catalogue does not have is tried without arguments.
    known = SUBJECTS.get(f"{kind}:{name}", Subject())
    create, delete, key = _COMMANDS[kind]
    subject = known.make or Backend("", "{id}", create, {}, delete, key)
    tag = {"object": "qom-type", "netdev": "type", "block": "driver"}.get(kind)
    if tag:
        subject = subject._replace(arguments={tag: name, **subject.arguments})
    elif "backend" not in subject.arguments:
        subject = subject._replace(arguments={"backend": {"type": name, "data": {}}})
    outside = known.outside or OUTSIDE.get(f"{kind}:{name}", "")
    return Recipe(
        f"{kind}:{name}", kind, {}, known.backends, outside, known.hosts, subject, known.machine
    )


_COMMANDS = {
    "object": ("object-add", "object-del", "id"),
    "chardev": ("chardev-add", "chardev-remove", "id"),
    "netdev": ("netdev_add", "netdev_del", "id"),
    "block": ("blockdev-add", "blockdev-del", "node-name"),
}


def vm_arguments(recipes: Iterable[Recipe], machine: str = "pc") -> list[str]:
    """Return QEMU's arguments for a VM in which all the recipes find their bus.

    :param machine: the VM's ``-machine``.
    """
    recipes = list(recipes)
    kind = machine.split(",")[0]
    buses = {recipe.bus for recipe in recipes}
    buses.update(name for recipe in recipes for name in recipe.hosts)
    hosts = [host for host in HOSTS if host.bus in buses and host.machine in ("", kind)]
    if "PCI" in buses and "q35" in kind:
        hosts.append(ROOT_PORT)
    return [word for host in hosts for word in host.arguments]


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
        driver = Driver(line["name"], line["bus"] or "", line["hidden"] is None)
        found[driver.name] = driver
        if line["alias"]:
            found[line["alias"]] = driver
    return found


def _guess_bus(driver: str) -> str:
    return next((bus for name, bus in BUS_BY_NAME if fnmatch.fnmatchcase(driver, name)), "PCI")
