"""The page of a campaign."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from browser import MEASURE, chromium
from campaigns import SOME, found
from conftest import Qmr

from qmrinspect.pages.page import page

# A browser takes its time where others compute.
pytestmark = pytest.mark.timeout(240)


def test_the_page_works_in_a_browser_without_a_network(campaign: Path, qmr: Qmr) -> None:
    file = campaign / "report.html"
    made = qmr("report", campaign / "c.sqlite", "-o", file, "--baseline", campaign / "c.sqlite")
    assert made.code == 0
    text = file.read_text()
    assert not re.search(r"\ssrc=|<link|@import|url\(", text)
    links = re.findall(r"href=[\"']([^\"'#][^\"']*)", text)
    for link in links:
        assert link.startswith("https://gitlab.com/qemu-project/") or (campaign / link).is_file()
    assert "bundles/intel-hda-leak/reproduce.sh" in links
    file.write_text(text.replace("</body>", MEASURE))
    dom = chromium("--dump-dom", file.as_uri())
    rows = re.findall(r'<td class="mono">(?:<a href="#finding-\d+">)?([\w:-]+)', dom)
    assert set(SOME) <= set(rows)
    title = re.search(r"<title>(\{.*?\})</title>", dom)
    assert title is not None
    graphs = json.loads(title[1].replace("&quot;", '"'))
    assert len(graphs) == 1  # a crash leaves no references to draw
    ((nodes, arrows, inside, apart),) = graphs.values()
    assert nodes == 2
    assert arrows == 2  # the container holds the device, and the way back
    assert inside
    assert apart


def test_the_page_plots_growth_and_escapes_what_the_vm_says() -> None:
    row = {
        **found("<script>alert(1)</script>", "leak", "same-owner-subregions"),
        "bus": "PCI",
        "machine": "pc",
        "qemu_version": "7.2",
        "text": "a & b",
        "case": [],
        "objects_left": [],
        "plug_us": 1,
        "unplug_us": 1,
        "growth": {
            "cycles": 2,
            "types": {"x": {"total": 2, "once": 0, "per_cycle": 1, "exact": True}},
            "references": {},
            "samples": [[0, 10, 20], [1, 11, 23], [2, 12, 26]],
        },
    }
    text = page("a <title>", [row])
    assert "<script>" not in text
    assert text.count("<polyline") == 2
    assert "Growth in 2 cycles" in text
    still = {**row, "outcome": "clean", "growth": {**row["growth"], "types": {}}}
    text = page("many cycles", [still])
    assert text.count("<polyline") == 2
    assert "Nothing grew" in text


def test_a_check_becomes_a_page(campaign: Path, qmr: Qmr) -> None:
    file = campaign / "check.html"
    leak = campaign / "bundles" / "intel-hda-leak" / "after.jsonl.gz"
    assert qmr("--snapshot", leak, "report", "-o", file).code == 1
    text = file.read_text()
    assert "intel-hda" in text
    assert "<svg" in text
