"""Expectations
------------

A file of rules that say which findings are known, each with its reason.  What a rule
matches is no longer new; a rule that matches nothing is reported, so that it goes
when the bug goes.

    [{"device": "intel-hda", "outcome": "leak", "cause": "same-owner-subregions",
      "reason": "fixed by ac7a892fd3 in 10.2"}]

``device``, ``outcome``, ``cause``, ``machine``, ``qemu_version``, the ``text`` of the finding and,
of one on an error path, its ``property`` and QEMU's ``message`` are patterns (:mod:`fnmatch`);
what a rule leaves out matches everything.
"""

from __future__ import annotations

import fnmatch
import json

from ..errors import UsageError
from ..hunt.rows import Row

__all__ = ["Expectations"]

_PATTERNS = (
    *("device", "outcome", "cause", "machine", "qemu_version", "text"),
    *("property", "message"),
)


class Expectations:
    """The rules of a file, with how often each was used.

    :raises UsageError: the file cannot be read, or has a rule without a reason.
    """

    def __init__(self, path: str) -> None:
        try:
            with open(path, encoding="utf-8") as file:
                rules = json.load(file)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise UsageError(f"{path} is no JSON: {error}") from None
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            raise UsageError(f"{path} is no list of rules", _EXAMPLE)
        for number, rule in enumerate(rules, 1):
            unknown = sorted(set(rule) - {*_PATTERNS, "reason"})
            if unknown:
                raise UsageError(f"rule {number} of {path} has no use for {unknown[0]}", _EXAMPLE)
            if not rule.get("reason"):
                raise UsageError(f"rule {number} of {path} has no reason", _EXAMPLE)
        self._rules: list[dict[str, object]] = rules
        self.hits = [0] * len(rules)

    def match(self, row: Row) -> str | None:
        """Return the reason why a finding is expected, and count it; None when it is not."""
        values: dict[str, object] = dict(row.get("error_path") or {})
        values.update(row)
        for number, rule in enumerate(self._rules):
            if all(
                fnmatch.fnmatchcase(str(values.get(name, "")), str(rule[name]))
                for name in _PATTERNS
                if name in rule
            ):
                self.hits[number] += 1
                return str(rule["reason"])
        return None

    def summary(self) -> list[dict[str, object]]:
        """Return the rules with their hits."""
        return [{**rule, "hits": hits} for rule, hits in zip(self._rules, self.hits)]


_EXAMPLE = 'a rule is {"device": "intel-hda", "outcome": "leak", "reason": "why it is known"}'
