"""The report
----------

One HTML page that needs no network: a summary, a row a device, and for each finding
the references as a picture and as a table.  The pages are templates of Jinja2, which
escapes all that is put into them; the pictures escape their own text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader

from ..hunt.rows import Row, is_bad, key
from ..text import printable
from .balance_svg import balance_picture
from .forecasts import forecast_section
from .svg import growth_plot, reference_graph

__all__ = ["page", "render_page"]

_LOOKS = {"clean": "good", "refused": "", "delayed": "warn", "not-acked": "warn"}


def render_page(template: str, **values: object) -> str:
    """Fill a template of ``report/templates``; what is put in is escaped."""
    pages = Environment(
        loader=PackageLoader("qmrinspect.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters["shown"] = lambda text, limit=200: printable(str(text), limit)
    pages.filters["look"] = lambda outcome: _LOOKS.get(outcome, "bad")
    pages.globals.update(
        graph=reference_graph,
        plot=growth_plot,
        balance=balance_picture,
        policies=forecast_section,
    )
    return pages.get_template(template).render(**values)


def page(
    title: str, rows: Sequence[Row], compared: Mapping[str, Sequence[Row]] | None = None
) -> str:
    """Return the page of a hunt.

    :param compared: what :func:`~qmrinspect.hunt.store.compare` returned.
    """
    tried = [row for row in rows if row.get("hotpluggable", True)]
    findings = [row for row in tried if is_bad(row)]
    number = {id(row): n for n, row in enumerate(findings)}
    against = None
    if compared is not None:
        against = [
            (name, [" ".join(key(row)).strip() for row in some]) for name, some in compared.items()
        ]
    return render_page(
        "hunt.html",
        title=title,
        where=_where(tried),
        counts=sorted(Counter(row["outcome"] for row in tried).items()),
        others=len(rows) - len(tried),
        compared=against,
        findings=findings,
        steady=[row for row in tried if row.get("growth") and not is_bad(row)],
        devices=[(row, number.get(id(row)), _remark(row)) for row in tried],
    )


def _remark(row: Row) -> str:
    return row.get("note") or ("" if row["outcome"] in ("clean", "leak") else row["text"])


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
