"""How a picture looks: by day, by night, and on paper. Plain rules: programs other than browsers draw it, too."""

from __future__ import annotations

from collections.abc import Mapping

#: kind -> fill and text by day, fill and text by night
_COLOURS: Mapping[str, tuple[str, str, str, str]] = {
    "silent": ("#dfe3e8", "#333", "#424a54", "#e6e6e6"),
    "late": ("#f5d565", "#3b2f00", "#a98415", "#fff"),
    "at-risk": ("#f0a35e", "#3d1d00", "#b5651d", "#fff"),
    "expired": ("#d9534f", "#fff", "#b23b37", "#fff"),
    "recovering": ("#8cc4ea", "#06283d", "#2b6f9e", "#fff"),
    "frozen": ("#5b6fc7", "#fff", "#5d70c4", "#fff"),
    "fencing": ("#8c1d2f", "#fff", "#a3263b", "#fff"),
    "conflict": ("#c0399f", "#fff", "#d357b5", "#fff"),
    "unguarded": ("#8a6d3b", "#fff", "#b8965a", "#000"),
    "replaced": ("#3c8d6e", "#fff", "#4fae8a", "#000"),
    "disarmed": ("#c9b8dd", "#2d1b45", "#5c4a75", "#fff"),
    "asleep": ("#9aa3ad", "#fff", "#6b7480", "#fff"),
}

#: the pattern of what is unknown
HATCH = (
    '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect class="hatch-paper" width="7" height="7"/><line class="hatch-line" x1="0" x2="0" y1="0" y2="7"/>'
    "</pattern></defs>"
)
_COMMON = """
text { font: 11px system-ui, "DejaVu Sans", sans-serif; fill: #222; }
.label, .verdict { font-size: 10.5px; }
.tick, .clock, .legend, .cut-words { font-size: 10px; }
.lease-words { font-size: 8px; }
.name.host { font-weight: bold; }
.name { unicode-bidi: isolate; }
.clock { fill: #222; } .tick, .cut-words { fill: #666; } .lease-words { fill: #14506f; }
.paper { fill: #fff; }
.row { fill: none; } .row.host { fill: #eef0f3; } .row.storage { fill: #f8f9fa; }
.grid { stroke: #d8dce0; stroke-width: 0.6; }
.step { stroke: #fff; stroke-width: 0.8; }
.open { stroke: #222; stroke-width: 1.4; stroke-dasharray: 2.5 2; }
.lease { fill: #4fa3c7; fill-opacity: 0.55; stroke: #2b7ea3; stroke-width: 0.6; }
.bar.would-freeze, .bar.would-fence { fill: none; stroke-width: 1.2; stroke-dasharray: 4 2; }
.bar.would-freeze { stroke: #5b6fc7; } .bar.would-fence { stroke: #8c1d2f; }
.bar.unknown { fill: url(#hatch); stroke: #8b9097; stroke-width: 0.6; }
.label.unknown { paint-order: stroke; stroke: #fff; stroke-width: 3px; }
.hatch-paper { fill: #fff; } .hatch-line { stroke: #a2a8af; stroke-width: 2.4; }
.cut { fill: #fff; fill-opacity: 0.82; } .cut-edge { fill: none; stroke: #888; stroke-width: 0.8; }
.sign { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; stroke: #222; }
.sign.kept { stroke: #1d8a3d; } .sign.lost { stroke: #c4161c; stroke-width: 2.6; }
.sign.began { fill: #222; stroke-width: 0.5; } .sign.session { fill: #2b7ea3; stroke: #fff; stroke-width: 0.8; }
.sign.alarm { fill: #c4161c; stroke: #fff; stroke-width: 0.8; } .sign.note { fill: #777; stroke: none; }
.verdict.kept { fill: #146c2e; } .verdict.lost { fill: #c4161c; font-weight: bold; }
"""
_NIGHT = """
text, .clock { fill: #e3e5e8; } .tick, .cut-words { fill: #a9b0b8; } .lease-words { fill: #bfe3f5; }
.paper { fill: #16191d; }
.row.host { fill: #262b31; } .row.storage { fill: #1b1f24; }
.grid { stroke: #353b42; }
.open { stroke: #eee; }
.lease { fill: #2f7da0; stroke: #6fbfe0; }
.bar.would-freeze { stroke: #93a2e6; } .bar.would-fence { stroke: #e0667b; }
.label.unknown { stroke: #16191d; }
.hatch-paper { fill: #16191d; } .hatch-line { stroke: #59616a; }
.cut { fill: #16191d; } .cut-edge { stroke: #9aa0a6; }
.sign { stroke: #e3e5e8; } .sign.kept { stroke: #4cc46f; } .sign.lost { stroke: #ff6b6b; }
.sign.began { fill: #e3e5e8; } .sign.session { fill: #6fbfe0; stroke: #16191d; }
.sign.alarm { fill: #ff6b6b; stroke: #16191d; } .sign.note { fill: #a9b0b8; stroke: none; }
.verdict.kept { fill: #6fdc8c; } .verdict.lost { fill: #ff8080; }
"""


def _filled(night: bool) -> str:
    rules = []
    for kind, (fill, text, dark, dark_text) in _COLOURS.items():
        colour, words = (dark, dark_text) if night else (fill, text)
        rules.append(f".bar.{kind} {{ fill: {colour}; }} .label.{kind} {{ fill: {words}; }}")
    return "\n".join(rules)


#: the rules of a drawing; by night on a screen only, never on paper
DRAWING = (
    f"{_COMMON}{_filled(night=False)}\n"
    f"@media screen and (prefers-color-scheme: dark) {{{_NIGHT}{_filled(night=True)}\n}}\n"
)

#: the rules of a page around its drawings
PAGE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, "DejaVu Sans", sans-serif; margin: 1.5rem auto; max-width: 72rem; padding: 0 1rem;
  color: #222; background: #fff; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .2rem; } h3 { font-size: 1rem; }
p, ul { margin: .3rem 0; } .quiet { color: #666; }
svg.incident { display: block; box-sizing: border-box; width: 100%; height: auto; margin: .6rem 0;
  border: 1px solid #d8dce0; }
table { border-collapse: collapse; width: 100%; font-size: 13px; margin: .4rem 0 1rem; }
caption { text-align: left; font-weight: bold; padding: .3rem 0; }
th, td { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid #e3e6e9; }
td { overflow-wrap: anywhere; } th { color: #666; font-weight: normal; }
td.host, td.what { white-space: nowrap; overflow-wrap: normal; } th:first-child { padding-left: calc(.4rem + 3px); }
td.time { white-space: nowrap; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
tr.decision td { background: #f3f5fb; } tr.error td:first-child { border-left: 3px solid #c4161c; padding-left: .4rem; }
tr.warning td:first-child { border-left: 3px solid #f0a35e; padding-left: .4rem; }
tr.info td:first-child { border-left: 3px solid transparent; padding-left: .4rem; }
@media screen and (prefers-color-scheme: dark) {
  body { color: #e3e5e8; background: #101316; } .quiet, th { color: #a9b0b8; }
  svg.incident { border-color: #353b42; } th, td { border-color: #2c3238; } tr.decision td { background: #1d2230; }
}
@media screen and (max-width: 45rem) {
  section { overflow-x: auto; } svg.incident, table { min-width: 44rem; }
}
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  body { max-width: none; margin: 0; padding: 0; font-size: 11pt; } table { font-size: 8.5pt; }
  svg.incident { break-inside: avoid; max-height: 175mm; } tr { break-inside: avoid; }
  h2, h3, caption { break-after: avoid; } thead { display: table-header-group; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
