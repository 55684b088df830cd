"""The pages of checks and hunts: each fault once, what it means, what was read."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser import MEASURE, chromium
from make_golden import GOLDEN

from qmrinspect.audit import check
from qmrinspect.audit.check import each_once
from qmrinspect.audit.finding import Severity
from qmrinspect.audit.outcome import BAD
from qmrinspect.audit.stale import CALLS
from qmrinspect.pages import pictures
from qmrinspect.pages.advice import ADVICE, STALE, advice_for
from qmrinspect.pages.checkpage import check_page
from qmrinspect.pages.page import page
from qmrinspect.pages.pictures import reference_graph
from qmrinspect.report.checks import check_lines
from qmrinspect.report.dot import reference_dot
from qmrinspect.report.words import reference_table
from qmrinspect.store import load

unit = pytest.mark.unit

# A browser takes its time where others compute.
pytestmark = pytest.mark.timeout(240)


def checked(name: str) -> str:
    return check_page(check(load(GOLDEN / f"{name}.jsonl.gz")))


def row(device: str, outcome: str = "leak", *causes: str, **more: Any) -> dict[str, Any]:
    return {
        "device": device,
        "outcome": outcome,
        "causes": list(causes),
        "cycle": 1,
        "bus": "PCI",
        "machine": "pc",
        "qemu_version": "7.2.22",
        "build_id": "abcd",
        "policy": "owner-ref",
        "text": "",
        "case": [],
        "objects_left": [],
        "plug_us": 1000,
        "unplug_us": 1,
        **more,
    }


def edge(kind: str, holder: str, target: str, field: str, **more: Any) -> dict[str, Any]:
    names = {"holder_path": holder, "holder_label": "", "owner": "0x0"}
    return {"kind": kind, "holder": holder, "target": target, "field": field, **names, **more}


# A check ---------------------------------------------------------------------------


@unit
def test_each_leak_is_shown_once() -> None:
    report = check(load(GOLDEN / "stock-7.2-unplugged.jsonl.gz"))
    kinds = sorted(finding.kind for finding in report.findings)
    assert kinds == ["cycle"] * 3 + ["orphan"] * 3
    text = check_page(report)
    titles = re.findall(r'<section class="finding" id="finding-\d+">\s*<h3>(\S+)', text)
    assert sorted(titles) == ["bochs-display", "intel-hda", "qemu-xhci"]
    assert "2 objects in a cycle" in text
    assert "3 findings" in text
    told = list(check_lines(report))
    assert told[-1] == "3 errors"
    assert not [line for line in told if line.startswith("error: cycle")]
    assert len([line for line in told if line.startswith("    2 objects in a cycle")]) == 1


@unit
def test_what_is_worse_than_the_orphan_is_told_by_itself() -> None:
    report = check(load(GOLDEN / "stock-7.2-unplugged.jsonl.gz"))
    milder = [
        one._replace(severity=Severity.NOTE) if one.kind == "orphan" else one
        for one in report.findings
    ]
    told = each_once(report._replace(findings=milder))
    assert [one for one, _ in told] == milder and not any(with_it for _, with_it in told)


@unit
def test_the_way_back_of_a_cycle_is_drawn() -> None:
    text = checked("stock-7.2-unplugged")
    pictures = re.findall(r'<svg class="graph".*?</svg>', text, re.DOTALL)
    assert len(pictures) >= 3
    for picture in pictures[:3]:
        labels = re.findall(r">([\w-]+)(?: x\d+)?</text></g>", picture)
        assert "child" in labels
        assert {"subregion", "link"} & set(labels)


@unit
def test_a_check_that_found_nothing_says_so() -> None:
    text = checked("stock-7.2-idle")
    assert "Nothing found: all" in text
    assert 'class="finding"' not in text
    assert "Nothing found" not in checked("stock-7.2-unplugged")


@unit
def test_a_check_says_what_was_read() -> None:
    snapshot = load(GOLDEN / "stock-7.2-idle.jsonl.gz")
    target = snapshot.target._replace(
        host="lab7", pid=4711, command="qemu-system-x86_64 -object secret,id=s,data=hunter2"
    )
    capture = snapshot.capture._replace(at_us=1_700_000_000_000_000)
    text = check_page(check(snapshot._replace(target=target, capture=capture)))
    for word in ("lab7", "4711", "data=********", "2023-11-14", target.build_id, "qmr 0."):
        assert word in text
    assert "hunter2" not in text


# A hunt ----------------------------------------------------------------------------


def cpu(number: int, **more: Any) -> dict[str, Any]:
    name, at = f"model{number}-x86_64-cpu", hex(0x5500000000 + 0x1000 * number)
    text = f'{name} dut{number} <{at}> holds itself through AddressSpace "cpu-smm-{number}".root'
    held = [edge("address-space-root", "0x77", at, 'AddressSpace "cpu-smm-1".root')]
    case = [{"cause": "address-space-root", "object": at, "text": text, "references": held}]
    return row(name, "leak", "address-space-root", case=case, text=text, bus="", **more)


@unit
def test_what_ends_alike_is_one_finding_with_a_list() -> None:
    other = row("edu", "leak", "unbalanced", text="edu has 1 reference")
    text = page("t", [cpu(n) for n in range(131)] + [other])
    assert text.count('<section class="finding"') == 2
    assert "131 CPU models" in text
    assert "leak: address-space-root</a> (131)" in text
    for number in (0, 130):
        assert f"<span>model{number}-x86_64-cpu</span>" in text
    # Each row of the table leads to it.
    assert len(re.findall(r'<a href="#finding-0">model', text)) == 131
    # What differs in more than names stays apart.
    apart = cpu(7)
    apart["case"][0]["text"] += " twice"
    assert page("t", [cpu(1), apart]).count('<section class="finding"') == 2
    known = page("t", [cpu(1), cpu(2, expected="since always")])
    assert known.count('<section class="finding"') == 2


@unit
def test_a_hunt_that_found_nothing_says_so() -> None:
    assert "Nothing found: 2 devices hunted" in page("t", [row("edu", "clean"), row("x", "clean")])
    assert "Nothing found" not in page("t", [row("edu", "leak", "unbalanced")])


@unit
def test_a_hunt_says_what_was_read() -> None:
    read = {"qmr": "0.2.0", "host": "lab7", "pid": 12, "exe": "/usr/bin/qemu"}
    read |= {"command": "qemu -spice password=hunter2", "at_us": 1_700_000_000_000_000}
    text = page("t", [row("edu", "clean", read=read)])
    for word in ("lab7", "/usr/bin/qemu", "password=********", "2023-11-14", "abcd", "qmr 0.2.0"):
        assert word in text
    assert "hunter2" not in text
    assert "not recorded" in page("t", [])
    # VMs that differ only in where their monitors are have one command line.
    rows = [
        row(str(n), "clean", read={**read, "command": f"qemu -qmp unix:/tmp/qmr-x{n}y/qmp -S"})
        for n in range(3)
    ]
    assert page("t", rows).count("qemu -qmp unix:.../qmp -S") == 1


@unit
def test_a_cause_has_its_meaning_and_its_commit() -> None:
    text = page("t", [row("a", "leak", "same-owner-subregions"), row("b", "crash")])
    for word in ("same-owner-subregions", "crash"):
        advice = ADVICE[word]
        assert html.escape(advice.meaning, quote=False) in html.unescape(text)
        assert advice.commit and advice.commit in text
    assert advice_for("held-by-link") == ADVICE["held-by"]
    # What is nobody's fault, and what says no more than that there is something to look at.
    neutral = {"delayed", "refused", "not-acked", "unreadable"}
    assert {word for word, advice in ADVICE.items() if not advice.commit} == neutral
    # Where none is known, that is said.
    for advice in STALE.values():
        assert bool(advice.commit) != ("No commit of QEMU's is known" in advice.mended)
    assert all(advice_for(word) for word in ("crash", "hang", "stale", "cycle", "underflow"))
    assert all(advice_for(str(word)) or str(word) in ("leak", "partial-leak") for word in BAD)


@unit
def test_each_cause_of_a_stale_device_says_what_it_means_and_who_ends_it() -> None:
    for kind in set(CALLS) - {"candidate"}:
        advice = advice_for(kind)
        assert advice is not None, kind
        stale = [{"kind": kind, "text": "a thing leads there"}] * 2
        text = html.unescape(page("t", [row("a", "stale", stale=stale)]))
        assert f"stale: {kind}<" in text
        assert advice.meaning in text and advice.mended in text


@unit
def test_bundles_are_linked_from_where_the_page_is(tmp_path: Path) -> None:
    bundle = tmp_path / "bundles" / "a b"
    bundle.mkdir(parents=True)
    (bundle / "reproduce.sh").write_text("")
    (bundle / "after.jsonl.gz").write_bytes(b"")
    found = row("edu", "leak", "unbalanced", bundle=str(bundle))
    links = re.findall(r"href='([^']*)'", page("t", [found], place=str(tmp_path / "pages")))
    assert [link for link in links if "a b" in link] == [
        "../bundles/a b/reproduce.sh",
        "../bundles/a b/after.jsonl.gz",
    ]


# Pictures --------------------------------------------------------------------------

HELD = {
    "objects_left": [
        {"address": "0x1", "was": "/machine/peripheral/a", "type": "dev", "references": []}
    ],
    "case": [
        {
            "object": "0x1",
            "text": "a holds itself",
            "references": [
                edge("subregion", "0x2", "0x1", 'MemoryRegion.subregions "<x>"', owner="0x1"),
                edge("address-space-root", "0x3", "0x1", 'AddressSpace "as".root', owner="0x1"),
                *(edge("link", hex(n), "0x1", 'link "l"') for n in range(100, 200)),
            ],
            "way_back": [edge("child", "0x1", "0x2", 'child "c"')],
        }
    ],
}


def test_a_picture_of_a_leak_names_its_container_and_regions() -> None:
    book = check(load(GOLDEN / "stock-7.2-unplugged.jsonl.gz")).book
    xhci = next(a for a, o in book.index.snapshot.objects.items() if o.type == "base-xhci")
    dot = "\n".join(reference_dot(book, xhci, book.on[xhci]))
    assert r"container \"xhci\" has \"capabilities\"" in dot
    assert all(rf"\"usb{kind} port #{n}\"" in dot for kind in (2, 3) for n in (1, 2, 3, 4))
    # And so does the table.
    table = "\n".join(reference_table(book, book.on[xhci]))
    assert '"usb2 port #4"' in table and " more" not in table + dot


@unit
def test_a_picture_has_both_ways_and_says_what_it_leaves_out() -> None:
    laid = reference_graph(HELD)
    assert "<rect" in laid and "xmlns" in laid
    for word in ("child", "part of", "subregion", "more hold it", "&lt;x&gt;"):
        assert word in laid
    assert "<?xml" not in laid and 'id="' not in laid
    assert laid.count("box head") == 1


@unit
def test_without_graphviz_there_is_a_picture_all_the_same() -> None:
    laid = reference_graph(HELD)
    for word in ("child", "part of", "subregion", "more hold it", "&lt;x&gt;"):
        assert word in laid
    assert reference_graph({"objects_left": []}) is None


PARTS = {
    "objects_left": [
        {"address": "0x1", "was": "/machine/peripheral/" + "long" * 20, "type": "dev"},
        {"address": "0x2", "was": "/machine/peripheral/part", "type": "part"},
    ],
    "case": [
        {
            "object": "0x1",
            "text": "",
            "references": [
                edge("subregion", "0x2", "0x1", 'MemoryRegion.subregions "a"'),
                edge("link", "0x2", "0x1", 'link "l"'),
                edge("address-space-root", "0x3", "0x1", 'AddressSpace "as".root', owner="0x1"),
                edge("dispatch-section", "0x4", "0x1", "MemoryRegionSection.mr"),
                edge("timer-opaque", "0x5", "0x2", "QEMUTimer.opaque"),
            ],
            "way_back": [edge("child", "0x1", "0x2", 'child "c"')],
        }
    ],
}


@pytest.mark.parametrize("program", ["dot", ""])
def test_a_picture_is_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    pictures._drawn.cache_clear()
    if not program:
        monkeypatch.setattr("qmrinspect.report.dot.shutil.which", lambda name: None)
    for item in PARTS["objects_left"]:
        item.setdefault("references", [])  # type: ignore[attr-defined]
    rows = [row("a", "leak", "link-cycle", **PARTS), row("b", "leak", "unbalanced", **HELD)]
    file = tmp_path / "p.html"
    file.write_text(page("t", rows).replace("</body>", MEASURE))
    pictures._drawn.cache_clear()
    title = re.search(r"<title>(\{.*?\})</title>", chromium("--dump-dom", file.as_uri()))
    assert title is not None
    seen = json.loads(html.unescape(title[1]))
    assert sorted(seen) == ["finding-0", "finding-1"]
    assert sorted(tuple(one[:2]) for one in seen.values())[0] == (5, 7)
    assert [one[2:] for one in seen.values()] == [[True, True]] * 2


# In a browser ----------------------------------------------------------------------

_TRY = """<script>addEventListener('load', () => {
  const wide = () => document.documentElement.scrollWidth <= innerWidth + 1;
  const names = () => [...document.querySelectorAll('#devices tbody tr:not([hidden])')]
    .map(r => r.cells[0].textContent);
  const seen = {fits: wide(), all: names()};
  const box = document.querySelector('#filter');
  const type = text => { box.value = text; box.dispatchEvent(new Event('input')); };
  type('model1'); seen.filtered = names();
  seen.groups = document.querySelectorAll('section.cause:not([hidden])').length;
  type('no such word'); seen.none = !document.querySelector('#none-left').hidden;
  type('');
  const head = document.querySelectorAll('#devices th button')[4];
  head.click(); seen.up = names(); head.click(); seen.down = names();
  document.title = JSON.stringify(seen); })</script></body>"""


@pytest.mark.parametrize("width", [1280, 400])
def test_a_page_is_filtered_and_sorted_and_fits(tmp_path: Path, width: int) -> None:
    long = "x" * 300
    rows = [cpu(1, plug_us=9000), row("edu", "clean", plug_us=80000, text=long)]
    rows += [row("bad", "leak", "unbalanced", text=long, plug_us=1000, case=HELD["case"])]
    growth = {"cycles": 2, "types": {}, "references": {}}
    growth["samples"] = [[0, 10, 20], [1, 11, 23], [2, 12, 26]]
    rows += [row("grows", "clean", growth=growth, plug_us=20000)]
    file = tmp_path / "p.html"
    file.write_text(page("t" * 200, rows).replace("</body>", _TRY))
    dom = chromium("--dump-dom", f"--window-size={width},900", file.as_uri())
    title = re.search(r"<title>(\{.*?\})</title>", dom)
    assert title is not None
    seen = json.loads(html.unescape(title[1]))
    assert seen["fits"]
    assert len(seen["all"]) == 4
    assert seen["filtered"] == ["model1-x86_64-cpu"]
    assert seen["groups"] == 1
    assert seen["none"]
    assert seen["up"] == ["bad", "model1-x86_64-cpu", "grows", "edu"]
    assert seen["down"] == seen["up"][::-1]
