"""A self-contained HTML page of sections with charts and tables, light and dark. Nothing on it is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape

STYLE = """
:root{color-scheme:light dark;--fg:#1e293b;--bg:#fff;--line:#cbd5e1;--soft:#64748b;--band:#f1f5f9}
@media(prefers-color-scheme:dark){:root{--fg:#e2e8f0;--bg:#0f172a;--line:#334155;--soft:#94a3b8;--band:#1e293b}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:60rem;margin:2rem auto;
padding:0 1rem}h1{font-size:1.6rem}h2{margin-top:2.5rem;font-size:1.2rem}
.p{overflow-x:auto}svg{width:100%;min-width:30rem;height:auto;display:block}
.t{font-size:11px;fill:var(--soft)}.m{text-anchor:middle}.r{text-anchor:end}.a{stroke:var(--soft)}
.g{stroke:var(--line);stroke-width:.5}.legend{font-size:.85rem;margin:.3rem 0}.k{margin-right:1rem;white-space:nowrap}
.k i{display:inline-block;width:.8em;height:.8em;margin-right:.35em;border-radius:2px}table{border-collapse:collapse;
font-size:.9rem;margin:.6rem 0;display:block;overflow-x:auto}td,th{padding:.25rem .7rem;border-bottom:1px solid
var(--line);text-align:right}td+td{white-space:nowrap}td:first-child,th:first-child{text-align:left}
table.objectives td:first-child{min-width:15rem}th{font-weight:600}
tr.hi td{background:var(--band);font-weight:600}td.bad{background:#fecaca;color:#7f1d1d}p.n{color:var(--soft);
font-size:.88rem}
@media print{:root{color-scheme:light;--fg:#000;--bg:#fff;--line:#cbd5e1;--soft:#475569;--band:#f1f5f9}
body{font-size:11px;margin:0;padding:0;max-width:none;print-color-adjust:exact;-webkit-print-color-adjust:exact}
table{display:table}td,th{padding:.15rem .35rem}table.objectives td:first-child{min-width:0}.p{overflow:visible}
svg{min-width:0;max-width:34rem}h2,h3,.legend,p.n{break-after:avoid}.p,tr{break-inside:avoid}}
"""


def html_page(title: str, intro: str, sections: Iterable[tuple[str, str | None]]) -> str:
    """The whole page. ``intro`` is text; a section is a title and HTML, and is left out if that is empty."""
    body = "".join(f"<section><h2>{escape(name)}</h2>{part}</section>" for name, part in sections if part)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><p>{escape(intro)}</p>{body}</body></html>\n"
    )


def html_table(
    heads: Sequence[str],
    rows: Iterable[tuple[str, Sequence[str]]],
    highlight: Callable[[str], bool] = lambda _: False,
    kind: str = "",
) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in heads)
    body = "".join(
        f"<tr{' class=hi' if highlight(name) else ''}><td>{escape(name)}</td>"
        + "".join(f"<td{' class=bad' if cell == 'MISSED' else ''}>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, cells in rows
    )
    opening = f'<table class="{kind}">' if kind else "<table>"
    return f"{opening}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
