"""The few pieces of HTML that a report is made of. Text is escaped here and nowhere else.

table(["operation", "form"], [["qkv", "ring"]])
page("small", [("loss", "Loss", "<svg ...>")], foot="ndtrain 0.1.0")
"""

import html
from collections.abc import Iterable, Sequence

# Colours of the series: Okabe and Ito's palette (jfly.uni-koeln.de/color), which colour-blind
# readers tell apart, a shade lighter on dark paper.
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --panel: #f5f6f8; --ink: #1c2026;
  --muted: #667080; --grid: #e3e6ea; --blue: #0072b2; --orange: #e69f00; --green: #009e73;
  --red: #d55e00; --purple: #b8689a; --grey: #9aa3ad; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --panel: #1d2127; --ink: #e4e7eb;
  --muted: #97a1ad; --grid: #2c323a; --blue: #56b4e9; --orange: #f0b429; --green: #2fc49a;
  --red: #ff7b3a; --purple: #d896bd; --grey: #6d7783; } }
@media print { :root { color-scheme: light; --paper: #fff; --panel: #f5f6f8; --ink: #000;
  --muted: #555; --grid: #ddd; --blue: #0072b2; --orange: #e69f00; --green: #009e73;
  --red: #d55e00; --purple: #b8689a; --grey: #9aa3ad; }
  nav { display: none; } section { break-inside: avoid; } section.long { break-inside: auto; }
  details::details-content { content-visibility: visible; block-size: auto; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main, header { max-width: 900px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 26px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 8px; padding-top: 10px; border-top: 1px solid var(--grid); }
p { margin: 6px 0; } .muted { color: var(--muted); }
nav a { margin-right: 14px; white-space: nowrap; }
a { color: var(--blue); text-decoration: none; } a:hover { text-decoration: underline; }
svg { display: block; width: 100%; height: auto; margin: 8px 0; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg text.muted { fill: var(--muted); }
svg .end { text-anchor: end; } svg .mid { text-anchor: middle; }
svg .grid { stroke: var(--grid); } svg .axis { stroke: var(--muted); }
svg .mark { stroke: var(--muted); stroke-dasharray: 3 4; }
svg .minor { stroke: var(--orange); stroke-width: 2; }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .band { opacity: .22; } svg .area { opacity: .85; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px;
  margin: 18px 0; }
.tile { background: var(--panel); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 20px; font-weight: 600; overflow-wrap: anywhere; }
.tile span { color: var(--muted); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; margin: 8px 0; }
th, td { text-align: left; padding: 3px 12px 3px 0; border-bottom: 1px solid var(--grid);
  vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--muted); font-weight: 500; vertical-align: bottom; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number, td.time, .badge { white-space: nowrap; }
td.time { color: var(--muted); } td.words { white-space: pre-wrap; width: 100%; }
th.number { overflow-wrap: normal; }
code { font: 13px ui-monospace, Menlo, Consolas, monospace; }
summary { cursor: pointer; color: var(--muted); }
.badge { border-radius: 4px; padding: 1px 7px; font-size: 12.5px; background: var(--panel); }
.warning { color: var(--orange); } .failure { color: var(--red); } .good { color: var(--green); }
.problem { border-left: 3px solid var(--orange); padding-left: 10px; }
footer { color: var(--muted); font-size: 13px; padding: 30px 0; }
"""


def escape(text: object) -> str:
    """Any text as HTML, in elements and in quoted attributes; control characters made visible."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in str(text))
    return html.escape(shown, quote=True)


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 0) -> str:
    """Text is escaped. numbers: so many columns at the right hold numbers."""
    first_number = len(heads) - numbers

    def cells(tag: str, values: Sequence[object]) -> str:
        kinds = ('class="number"' if i >= first_number else "" for i in range(len(values)))
        return "".join(
            f"<{tag} {kind}>".replace(" >", ">") + f"{escape(value)}</{tag}>"
            for kind, value in zip(kinds, values, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    head = f"<thead><tr>{cells('th', heads)}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def tiles(entries: Iterable[tuple[str, str]]) -> str:
    """(what, figure) as a row of boxes."""
    boxes = (
        f'<div class="tile"><b>{escape(figure)}</b><span>{escape(what)}</span></div>'
        for what, figure in entries
    )
    return f'<div class="tiles">{"".join(boxes)}</div>'


def details(summary: str, content: str) -> str:
    """content: HTML."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def page(title: str, head: str, parts: Sequence[tuple[str, str, str]], foot: str) -> str:
    """A whole document. parts: (anchor, title, HTML); head: HTML above them."""
    links = " ".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name, _ in parts)
    sections = "".join(
        f'<section id="{anchor}"{" class=long" if "<table" in content else ""}>'
        f"<h2>{escape(name)}</h2>\n{content}</section>\n"
        for anchor, name, content in parts
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><header>{head}<nav>{links}</nav></header>\n<main>{sections}"
        f"<footer>{escape(foot)}</footer></main></body></html>\n"
    )
