"""What an unplug would have done under other policies
---------------------------------------------------

Of each cycle of a hunt: from what is left of a device that leaked, from what implies it where
none did, or from one reading more, taken while a link holds the device that was unplugged.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..audit.forecast import Forecast, Forecaster, all_policies
from ..audit.unrealize import Key, Prospect, learn, prospects, ties
from ..errors import TargetError
from ..hotplug.pin import Pin, links, release_pin, set_pin
from ..index import Index
from ..ledger import Book, Policy
from ..snapshot import Prop

if TYPE_CHECKING:
    from ..hotplug.plugging import Plugged
    from .driver import Driver

__all__ = [
    "UNKNOWN",
    "Foretold",
    "Pins",
    "also_gone",
    "foretell_after",
    "foretell_pinned",
    "foretell_rest",
    "held_by",
    "implied",
    "read_outlived",
]

#: What does not follow from what was seen.
UNKNOWN = "unknown"

# A row of a hunt is no longer.
_LEARNED_MAX = 1 << 20

# So many links are tried before a VM is taken for one that has none.
_TRIALS = 40

# What else an unplug that ended clean under one policy says, wherever the device's own code
# is the same.  Each of these takes no reference, and asserts nothing, that the first does not:
#
# * owner-ref: every pair of one owner was undone before the owner was finalized, for it would
#   have held it; without such pairs all four do the same.
# * no-ref asserts more than subregion-ref and owner-shared, and takes no reference more but
#   those that a container gives up when it is finalized.
# * subregion-ref and owner-shared: whatever the order, the container gives up its regions.
_SAME_OR_LESS: Mapping[str, Collection[str]] = {
    "strict": ("strict", "owner-ref", "no-ref", "subregion-ref", "owner-shared"),
    "owner-ref": ("owner-ref", "no-ref", "subregion-ref", "owner-shared"),
    "no-ref": ("no-ref", "subregion-ref", "owner-shared"),
    "subregion-ref": ("subregion-ref", "owner-shared"),
    "owner-shared": ("subregion-ref", "owner-shared"),
}


class Foretold(NamedTuple):
    """Forecasts of one unplug.

    :param source: what they were made from: ``after`` or ``pinned``.
    :param outlived: the keys of what outlived unrealize, for forecasts of devices of the type
        that are plugged elsewhere.
    :param plugged: what was known before anything was unplugged.
    :param left: forecasts from what was left in the end, besides those from a link.
    """

    source: str
    forecasts: tuple[Forecast, ...]
    outlived: Sequence[Key]
    plugged: Sequence[Prospect] = ()
    left: Sequence[Forecast] = ()


def foretell_after(after: Book, device: int, left: Collection[int]) -> Foretold:
    """Foretell from what is left of a device.

    :param left: the device and what else that came with it is left.
    """
    forecaster = Forecaster(after)
    forecasts = tuple(forecaster.of(policy, device, left) for policy in all_policies())
    return Foretold("after", forecasts, learn(after, device, left))


def foretell_rest(after: Book, left: Collection[int], name: str, gone: Collection[str]) -> Foretold:
    """Foretell from what is left of something that was finalized itself.

    :param name: what to call that.
    :param gone: the policies under which it is finalized, see :func:`also_gone`.
    """
    forecaster = Forecaster(after)
    policies = [policy for policy in all_policies() if policy.name in gone]
    return Foretold("after", tuple(forecaster.rest(p, left, name) for p in policies), ())


def foretell_pinned(
    pinned: Book, device: int, came: Collection[int], pins: Sequence[Prop], with_it: Book
) -> Foretold:
    """Foretell from a device that was unplugged and that a link holds.

    :param came: what came with it, and still is there.
    :param with_it: while it was plugged.
    """
    forecaster = Forecaster(pinned)
    forecasts = tuple(forecaster.of(policy, device, came, pins) for policy in all_policies())
    held = {(prop.holder, prop.name) for prop in pins}
    plugged = prospects(Forecaster(with_it), all_policies(), device)[1]
    return Foretold("pinned", forecasts, learn(pinned, device, came, held), plugged)


def implied(
    candidates: Iterable[Policy],
    with_it: Book,
    device: int,
    came: Collection[int],
    after: Book,
    left: Collection[int],
) -> dict[str, str]:
    """Say what other policies make of a device that is gone here.

    :param candidates: the policies that this QEMU may follow.
    :param with_it: while it was plugged.
    :param came: what came with it, and ``left`` what of that is left; addresses.
    :return: the outcome by the policy's name, :data:`UNKNOWN` where nothing implies it.
    """
    gone = also_gone(candidates)
    if not any(tie.region for tie in ties(with_it, device, came)):
        # No region was in a container of the device, and no policy does anything else.
        gone = {policy.name for policy in all_policies()}
    words = dict.fromkeys(gone, "clean")
    if left:
        name = with_it.index.snapshot.objects[device].type
        for one in foretell_rest(after, left, name, gone).forecasts:
            words[one.policy.name] = str(one.outcome.outcome)
    return {policy.name: words.get(policy.name, UNKNOWN) for policy in all_policies()}


def also_gone(candidates: Iterable[Policy]) -> set[str]:
    """Return the policies under which all is finalized that is finalized here.

    :param candidates: the policies that this QEMU may follow.
    """
    sets = [set(_SAME_OR_LESS.get(policy.name, (policy.name,))) for policy in candidates]
    return set.intersection(*sets) if sets else set()


class Pins:
    """The link of a VM that holds each device of a hunt for a reading.

    :param driver: of the VM.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._link: tuple[str, str] | None = None
        #: Why no device can be held.
        self.reason: str | None = None

    def hold(self, with_it: Book, plugged: Plugged, device: int) -> Pin | None:
        """Hold a device that is plugged; None where it cannot be."""
        if not plugged.path or plugged.recipe.non_device is not None or self.reason:
            return None
        if self._link is not None:
            path, name = self._link
            pin = partial(set_pin, path=path, name=name, device=plugged.path)
            return self._driver.drive(pin)
        return self._find(with_it.index, plugged.path, device)

    def _find(self, index: Index, device: str, address: int) -> Pin | None:
        """Find a link that can be set to a device, and holds it then."""
        stay = [
            (path, obj.type)
            for obj in index.snapshot.objects.values()
            for path in (index.path(obj.address),)
            if path.startswith("/") and not f"{path}/".startswith(f"{device}/")
        ]
        driver = self._driver
        found = driver.drive(lambda monitor: _first(links(monitor, stay), _TRIALS))
        for path, name in found:
            pin = driver.drive(partial(set_pin, path=path, name=name, device=device))
            if pin is None:
                continue
            if held_by(Index(driver.read()), address, pin):
                self._link = path, name
                return pin
            driver.drive(partial(release_pin, pin=pin))
        self.reason = "no object of this VM has a strong link that may be set to a device"
        return None


def held_by(index: Index, device: int, pin: Pin) -> list[Prop]:
    """Return the link as memory shows it; empty when it does not count."""
    return [
        prop
        for prop in index.snapshot.props
        if prop.role == "strong"
        and prop.target == device
        and prop.name == pin.property
        and index.path(prop.holder) == pin.path
    ]


def _first(found: Iterable[tuple[str, str]], limit: int) -> list[tuple[str, str]]:
    return [item for item, _ in zip(found, range(limit))]


def read_outlived(path: str) -> dict[str, list[Key]]:
    """Read what outlived unrealize, by device type, from the output of ``hunt --forecast``.

    :return: for each type the keys of what outlived it, :attr:`Tie.key`.
    :raises TargetError: the file cannot be read, or is none.
    """
    out: dict[str, list[Key]] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                row = json.loads(line[:_LEARNED_MAX])
                foretold = row.get("forecast") if isinstance(row, dict) else None
                if foretold and foretold["source"] == "pinned":
                    keys = foretold["outlived"]
                    out[str(row["device"])] = [tuple(str(part) for part in key) for key in keys]
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TargetError(
            f"{path} is not the output of a hunt",
            "make it with: qmr hunt --forecast --json DRIVER > FILE",
        ) from None
    return out
