"""JUnit
-----

A campaign as the XML that CI systems read: a test case a row.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

from ..hunt.rows import Row, is_bad, is_new
from ..outfile import write
from ..text import printable

__all__ = ["write_junit"]


def write_junit(path: str, rows: Iterable[Row]) -> None:
    """Write a JUnit file.

    A finding is a failure, unless it is known or expected; what was refused or is no
    finding of this run is skipped.

    :raises TargetError: the file cannot be written.
    """
    rows = list(rows)
    suite = ElementTree.Element("testsuite", name="qmr hunt")
    _properties(suite, rows)
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for row in rows:
        counts["tests"] += 1
        microseconds = row["plug_us"] + row["unplug_us"] + row["judge_us"]
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=f"{row['machine']}.{row['bus'] or 'none'}",
            name=row["device"],
            time=f"{microseconds / 1e6:.6f}",
        )
        text = printable(row["text"], 4000)
        if is_new(row):
            counts["failures"] += 1
            kind = " ".join([row["outcome"], *row["causes"]])
            failure = ElementTree.SubElement(case, "failure", type=kind, message=text)
            failure.text = "\n".join(
                f"{edge['kind']}: {printable(edge['holder_label'])} {printable(edge['field'])}"
                for found in row["case"]
                for edge in found["references"]
            )
        elif is_bad(row):
            counts["skipped"] += 1
            reason = row.get("expected") or "known from the baseline"
            ElementTree.SubElement(case, "skipped", message=f"{row['outcome']}: {reason}")
        elif row["outcome"] != "clean":
            counts["skipped"] += 1
            ElementTree.SubElement(case, "skipped", message=f"{row['outcome']}: {text}")
        if row.get("bundle"):
            # What GitLab and Jenkins show as attachments of a test.
            files = sorted(file for file in Path(row["bundle"]).glob("*") if file.is_file())
            out = ElementTree.SubElement(case, "system-out")
            out.text = "\n".join(f"[[ATTACHMENT|{file.absolute()}]]" for file in files)
    for name, count in counts.items():
        suite.set(name, str(count))
    write(path, ElementTree.tostring(suite, "utf-8", xml_declaration=True))


# "QEMU emulator version 10.0.50 (v10.0.0-1234-gdeadbeef12)": a build from git says which.
_COMMIT = re.compile(r"-g([0-9a-f]{7,40})\b")
# The commit that a CI system tests.
_VARIABLES = ("CI_COMMIT_SHA", "GITHUB_SHA", "GIT_COMMIT")


def _properties(suite: ElementTree.Element, rows: Iterable[Row]) -> None:
    """Say what was hunted: each property once a value."""
    found: dict[str, list[str]] = {}
    for row in rows:
        read = row.get("read") or {}
        version = row.get("qemu_version") or ""
        named = _COMMIT.search(version)
        for name, value in (
            ("qemu", version),
            ("program", read.get("exe")),
            ("build-id", row.get("build_id")),
            ("machine", row["machine"]),
            ("policy", row.get("policy")),
            ("host", read.get("host")),
            ("qmr", read.get("qmr")),
            ("commit", named[1] if named else ""),
        ):
            if value and value not in found.setdefault(name, []):
                found[name].append(value)
    if not found.get("commit"):
        found["commit"] = [os.environ[name] for name in _VARIABLES if os.environ.get(name)][:1]
    properties = ElementTree.SubElement(suite, "properties")
    for name, values in found.items():
        for value in values:
            ElementTree.SubElement(
                properties, "property", name=name, value=printable(str(value), 1000)
            )
