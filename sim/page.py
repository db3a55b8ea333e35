"""How the pages of the simulator look: no script, no font, nothing fetched; light, dark, and on paper."""

from __future__ import annotations

from html import escape
from typing import Final

STYLE: Final = """
:root{--ink:#1c2330;--soft:#5b6577;--paper:#fff;--card:#f5f7fa;--line:#dfe4ec;
--land:#dfe4ec;--good:#1a7f4b;--bad:#b3261e;
--c0:#2563c9;--c1:#c2570c;--c2:#1a7f4b;--c3:#8a3ab9;--c4:#b3261e;--c5:#0e7c86}
@media(prefers-color-scheme:dark){:root{--ink:#e7ebf3;--soft:#9aa5b8;--paper:#11151c;--card:#1a202b;--line:#2c3544;
--land:#2c3544;--good:#52c78a;--bad:#ff8078;
--c0:#7aa8ff;--c1:#ffac6b;--c2:#52c78a;--c3:#cf9bf2;--c4:#ff8078;--c5:#5fd0da}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:920px;margin:0 auto;padding:2rem 1rem}h1{margin:0;font-size:1.7rem}
h2{font-size:1.1rem;margin:2rem 0 .4rem}
p{margin:.3rem 0;overflow-wrap:anywhere}.soft{color:var(--soft)}.held{color:var(--good)}.violated{color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.7rem;margin:1.2rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.7rem .9rem}
.card b{display:block;font-size:1.3rem;font-variant-numeric:tabular-nums}.card span{color:var(--soft);font-size:.85rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{text-align:left;padding:.25rem .5rem;border-bottom:1px solid var(--line)}th{color:var(--soft);font-weight:600}
code,pre{font-family:ui-monospace,monospace;font-size:.85rem}
pre{background:var(--card);padding:.7rem;border-radius:8px;white-space:pre-wrap;overflow-wrap:anywhere}
.scroll{overflow-x:auto}
@media screen and (max-width:700px){svg{min-width:760px}}
svg{width:100%;height:auto;display:block}
.tick,.name{paint-order:stroke;stroke:var(--paper);stroke-width:2.5px;stroke-linejoin:round}
.grid{stroke:var(--line);stroke-width:1}.tick{fill:var(--soft);font-size:11px}.on-act{fill:var(--paper);font-size:11px}
.line{fill:none;stroke-width:2.2}.floor{fill:none;stroke-width:1.3;stroke-dasharray:4 4;opacity:.75}
.s0{stroke:var(--c0)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}.s4{stroke:var(--c4)}
.s5{stroke:var(--c5)}.bar{fill:var(--c0)}.act{fill:var(--c1)}.lost{fill:var(--bad)}
.site{fill:var(--c0);stroke:var(--paper);stroke-width:.6}.unreached{fill:none;stroke:var(--bad);stroke-width:1.2}
.sea{fill:var(--card)}.land{fill:var(--land)}.region{fill:var(--good)}.region-down{fill:var(--bad)}
.name{fill:var(--ink);font-size:11px;font-weight:600}.theory{fill:none;stroke:var(--soft);stroke-width:1.6;
stroke-dasharray:1.5 4;stroke-linecap:round}.k-region{fill:var(--c1)}.k-policy{fill:var(--c0)}.k-member{fill:var(--bad)}
.key{display:inline-block;width:.75em;height:.75em;border-radius:2px;vertical-align:-.05em;margin-right:.3em}
.keyed{display:inline-block;margin-right:.9em}
.lead{font-size:1.08rem;margin:.8rem 0 0}td.num,th.num{text-align:right;white-space:nowrap}
.dense{font-size:.74rem}.dense td,.dense th{padding:.25rem .22rem}.dense th+th+th{text-align:right}
details summary{cursor:pointer;color:var(--soft)}
@media print{:root{--ink:#000;--soft:#333;--paper:#fff;--card:#fff;--line:#ccc;--land:#e4e4e4;
--good:#1a7f4b;--bad:#b3261e;--c0:#2563c9;--c1:#c2570c;--c2:#1a7f4b;--c3:#8a3ab9;--c4:#b3261e;--c5:#0e7c86}
section,.card,tr,svg{break-inside:avoid}h2{break-after:avoid}details,details section{break-inside:auto}
main{padding:0 1px}:root,body{font-size:12px}.scroll{overflow:visible}thead{display:table-header-group}
summary{display:none}details::details-content{content-visibility:visible;height:auto}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def page(title: str, parts: list[str]) -> str:
    """A whole page."""
    head = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    body = "\n".join(part for part in parts if part)
    return f"{head}<title>{escape(title)}</title><style>{STYLE}</style><main>{body}</main></html>\n"


def section(title: str, body: str, note: str = "") -> str:
    """A headed part; nothing when there is nothing to show."""
    return f"<section><h2>{title}</h2>{body}<p class=soft>{note}</p></section>" if body else ""


def key(kind: str, name: str) -> str:
    """What a colour means."""
    return f'<span class=keyed><span class=key style="background:var(--{kind})"></span>{escape(name)}</span>'


def table(head: str, rows: str, kind: str = "") -> str:
    """A table, of cells and of rows: its head stands on each printed page; where it is too wide, it scrolls alone."""
    opened = f"<table class={kind}>" if kind else "<table>"
    return f"<div class=scroll>{opened}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
