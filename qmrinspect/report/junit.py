"""JUnit
-----

A campaign as the XML that CI systems read: a test case a row.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

from ..errors import TargetError
from ..hunt.rows import Row, is_bad
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
        if is_bad(row) and (row.get("expected") or row.get("status") == "known"):
            counts["skipped"] += 1
            reason = row.get("expected") or "known from the baseline"
            ElementTree.SubElement(case, "skipped", message=f"{row['outcome']}: {reason}")
        elif is_bad(row):
            counts["failures"] += 1
            kind = " ".join([row["outcome"], *row["causes"]])
            failure = ElementTree.SubElement(case, "failure", type=kind, message=text)
            failure.text = "\n".join(
                f"{edge['kind']}: {printable(edge['holder_label'])} {printable(edge['field'])}"
                for found in row["case"]
                for edge in found["references"]
            )
        elif row["outcome"] != "clean":
            counts["skipped"] += 1
            ElementTree.SubElement(case, "skipped", message=f"{row['outcome']}: {text}")
    for name, count in counts.items():
        suite.set(name, str(count))
    try:
        Path(path).write_bytes(ElementTree.tostring(suite, "utf-8", xml_declaration=True))
    except OSError as error:
        raise TargetError(f"{path} cannot be written: {error.strerror}") from None
