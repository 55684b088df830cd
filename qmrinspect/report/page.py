"""The report
----------

One HTML page that needs no network: a summary, a row a device, and for each finding
the references as a picture and as a table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..hunt.rows import Row, is_bad, key
from ..text import printable
from .balance_svg import balance_picture
from .forecasts import forecast_section
from .svg import growth_plot, reference_graph

__all__ = ["STYLE", "page"]

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; --bad: #c62828;
  --warn: #b26a00; --good: #2e7d32; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { margin-bottom: .2rem } h2 { margin-top: 2.2rem }
code, td.mono { font-family: ui-monospace, monospace; font-size: .9em }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top }
td.num, th.num { text-align: right; font-variant-numeric: tabular-nums }
.chips span { display: inline-block; margin: 0 .5rem .5rem 0; padding: .15rem .7rem;
  border-radius: 1rem; background: var(--soft); border: 1px solid var(--line) }
.bad { color: var(--bad); font-weight: 600 } .good { color: var(--good) }
.warn { color: var(--warn) }
section.finding { border: 1px solid var(--line); border-radius: .5rem; padding: .2rem 1rem 1rem;
  margin: 1rem 0 }
.scroll { overflow-x: auto }
svg text { font: 12px system-ui, sans-serif; fill: currentColor }
svg rect { fill: var(--soft); stroke: currentColor }
svg .head rect { stroke: var(--bad); stroke-width: 2 }
svg .arrow path, svg .axis { fill: none; stroke: currentColor; opacity: .6 }
svg .arrow polygon { fill: currentColor; opacity: .6 }
svg .bad rect { stroke: var(--bad) } svg .good rect { stroke: var(--good) }
svg polyline { fill: none; stroke: var(--bad); stroke-width: 2 }
"""

_LOOKS = {"clean": "good", "refused": "", "delayed": "warn", "not-acked": "warn"}


def page(
    title: str, rows: Sequence[Row], compared: Mapping[str, Sequence[Row]] | None = None
) -> str:
    """Return the page of a hunt.

    :param compared: what :func:`~qmrinspect.hunt.store.compare` returned.
    """
    return "\n".join(_page(title, rows, compared)) + "\n"


def _page(
    title: str, rows: Sequence[Row], compared: Mapping[str, Sequence[Row]] | None
) -> Iterator[str]:
    tried = [row for row in rows if row.get("hotpluggable", True)]
    findings = [row for row in tried if is_bad(row)]
    yield "<!DOCTYPE html>"
    yield f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<style>{STYLE}</style></head><body>"
    yield f"<h1>{escape(title)}</h1>"
    yield f"<p>{escape(_where(tried))}</p>"
    yield f'<p class="chips" id="summary">{_chips(tried, len(rows) - len(tried))}</p>'
    if compared is not None:
        yield from _compared(compared)
    if findings:
        yield "<h2>Findings</h2>"
    for number, row in enumerate(findings):
        yield from _finding(number, row)
    steady = [row for row in tried if row.get("growth") and not is_bad(row)]
    if steady:
        yield "<h2>Many cycles</h2>"
    for row in steady:
        yield f"<details><summary>{escape(row['device'])}</summary>"
        yield from _growth(row["growth"])
        yield "</details>"
    yield '<h2>Devices</h2><div class="scroll"><table id="devices"><thead><tr>'
    for head in ("device", "bus", "outcome", "cause"):
        yield f"<th>{head}</th>"
    for head in ("plug ms", "unplug ms"):
        yield f'<th class="num">{head}</th>'
    yield "<th>remark</th></tr></thead><tbody>"
    for row in tried:
        yield _device(row, findings)
    yield "</tbody></table></div></body></html>"


def _where(rows: Sequence[Row]) -> str:
    seen = list(
        dict.fromkeys(
            (row["machine"], row["qemu_version"], row.get("policy", ""))
            for row in rows
            if row.get("qemu_version") and row.get("policy")
        )
    )
    parts = [
        f"QEMU {version}, {machine}" + (f", policy {policy}" if policy else "")
        for machine, version, policy in seen
    ]
    return printable("; ".join(dict.fromkeys(parts))) or "nothing was hunted"


def _chips(rows: Sequence[Row], others: int) -> str:
    counts = Counter(row["outcome"] for row in rows)
    chips = [
        f'<span class="{_look(outcome)}">{count} {escape(outcome)}</span>'
        for outcome, count in sorted(counts.items())
    ]
    if others:
        chips.append(f"<span>{others} not hotpluggable</span>")
    return "".join(chips)


def _look(outcome: str) -> str:
    return _LOOKS.get(outcome, "bad")


def _compared(compared: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    yield '<h2>Compared with the baseline</h2><table id="compared"><tbody>'
    for name, rows in compared.items():
        items = ", ".join(escape(" ".join(key(row)).strip()) for row in rows) or "none"
        yield f"<tr><th>{escape(name)}</th><td class=num>{len(rows)}</td><td>{items}</td></tr>"
    yield "</tbody></table>"


def _finding(number: int, row: Row) -> Iterator[str]:
    causes = " with ".join(row.get("causes") or ())
    yield f'<section class="finding" id="finding-{number}">'
    yield f'<h3>{escape(row["device"])}: <span class="bad">{escape(row["outcome"])}</span>'
    yield f" {escape(causes)}</h3>"
    for remark in ("status", "expected", "note"):
        if row.get(remark):
            yield f"<p><b>{remark}</b>: {escape(printable(row[remark], 2000))}</p>"
    texts = [found["text"] for found in row.get("case") or ()] or [row["text"]]
    for text in texts:
        yield f"<p>{escape(printable(text, 2000))}</p>"
    graph = reference_graph(row)
    if graph:
        yield f'<div class="scroll">{graph}</div>'
    edges = [edge for found in row.get("case") or () for edge in found["references"]]
    if edges:
        yield "<details><summary>References</summary><table><tbody>"
        for edge in edges:
            holder = printable(edge.get("holder_label") or edge["holder_path"])
            yield (
                f"<tr><td>{escape(edge['kind'])}</td><td class=mono>{escape(holder)}</td>"
                f"<td class=mono>{escape(printable(edge['field']))}</td></tr>"
            )
        yield "</tbody></table></details>"
    foretold = row.get("forecast")
    if foretold:
        yield f"<details open><summary>Under each policy ({escape(foretold['source'])})</summary>"
        yield from forecast_section(foretold["policies"])
        yield "</details>"
    yield from _takers(row.get("trace") or {})
    if row.get("backtrace"):
        lines = "\n".join(printable(line, 500) for line in row["backtrace"])
        yield f"<details><summary>Backtrace</summary><pre>{escape(lines)}</pre></details>"
    if row.get("growth"):
        yield from _growth(row["growth"])
    if row.get("bundle"):
        yield f"<p>Evidence: <code>{escape(printable(row['bundle']))}</code></p>"
    yield "</section>"


def _takers(trace: Mapping[str, Any]) -> Iterator[str]:
    """Yield who took what remains on each object that was traced."""
    for one in trace.get("objects", ()):
        name = escape(printable(one["path"] or one["type"]))
        yield f"<details><summary>Taken and dropped: {name}</summary>"
        if one["refused"]:
            yield f"<p>Not traced: {escape(printable(one['refused']))}</p></details>"
            continue
        yield f'<div class="scroll">{balance_picture(one)}</div><table><tbody>'
        for reference in one["references"]:
            yield _taken(reference["kind"], reference["field"], reference["taken"])
        for taken in one["unexplained"]:
            yield _taken("unexplained", "nothing known holds it", taken)
        yield "</tbody></table></details>"


def _taken(kind: str, field: str, taken: Mapping[str, Any]) -> str:
    cells = "".join(
        f"<td class=mono>{escape(printable(text))}</td>" for text in (field, taken["text"])
    )
    return f"<tr><td>{escape(kind)}</td>{cells}</tr>"


def _growth(growth: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h4>Growth in {growth['cycles']} cycles</h4>"
    yield growth_plot(growth["samples"])
    if not growth["types"] and not growth["references"]:
        yield "<p>Nothing grew.</p>"
        return
    yield "<table><thead><tr><th>what</th><th class=num>a cycle</th><th class=num>once</th>"
    yield "</tr></thead><tbody>"
    for what in ("types", "references"):
        for name, grown in growth[what].items():
            yield (
                f"<tr><td class=mono>{escape(printable(name))}</td>"
                f"<td class=num>{grown['per_cycle']}</td><td class=num>{grown['once']}</td></tr>"
            )
    yield "</tbody></table>"


def _device(row: Row, findings: Sequence[Row]) -> str:
    number = next((n for n, other in enumerate(findings) if other is row), None)
    name = escape(row["device"])
    if number is not None:
        name = f'<a href="#finding-{number}">{name}</a>'
    remark = row.get("note") or ("" if row["outcome"] in ("clean", "leak") else row["text"])
    cells = [
        f"<td class=mono>{name}</td><td>{escape(row['bus'])}</td>",
        f'<td class="{_look(row["outcome"])}">{escape(row["outcome"])}</td>',
        f"<td>{escape(' '.join(row.get('causes') or ()))}</td>",
        f"<td class=num>{row['plug_us'] / 1000:.1f}</td>",
        f"<td class=num>{row['unplug_us'] / 1000:.1f}</td>",
        f"<td>{escape(printable(remark, 300))}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"
