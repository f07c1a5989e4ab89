"""The recording of a run: an SVG without scripts for a page, or an asciicast (version 2) to play it again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from tests.demo.screen import STEP, TITLES, Line, Row
from vmguard.cli.wrapping import wrapped

_COLUMNS = 110
#: of one character, and of one line, in pixels
_CHAR, _LINE, _BORDER = 7.3, 17, 14
#: style of a line -> colours on a light page and on a dark one, and the sequence of ECMA-48
_COLOURS = {
    "": ("#24292f", "#d0d7de", ""),
    STEP: ("#0a0c10", "#f6f8fa", "1"),
    "dim": ("#6e7781", "#8c959f", "2"),
    "red": ("#b00020", "#ff7b72", "31"),
    "green": ("#116329", "#7ee787", "32"),
    "yellow": ("#7d4e00", "#e3b341", "33"),
    "cyan": ("#0550ae", "#79c0ff", "36"),
}


class Piece(NamedTuple):
    """A line of the recording: its second, its margin, its words, their style."""

    second: float
    margin: str
    text: str
    style: str


def pieces(lines: Sequence[Line], rows: Sequence[Row]) -> list[Piece]:
    """Return the story in lines that fit, with the picture of its end below."""
    found = []
    for line in lines:
        room = _COLUMNS - len(line.margin)
        for number, text in enumerate(wrapped(line.text, room)):
            margin = line.margin if number == 0 else " " * len(line.margin)
            found.append(Piece(line.second, margin, text, line.style))
    end = lines[-1].second if lines else 0.0
    table = [TITLES, *(row.cells for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    found.append(Piece(end, "", "", ""))
    for number, row in enumerate(table):
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        found.append(Piece(end, "  ", cells.rstrip(), STEP if number == 0 else ""))
    return found


def svg(lines: Sequence[Line], rows: Sequence[Row], title: str) -> str:
    """Return the story as a picture that a page shows, light or dark as its reader has it."""
    story = pieces(lines, rows)
    width, height = round(_COLUMNS * _CHAR) + 2 * _BORDER, len(story) * _LINE + 2 * _BORDER
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" width="{width}">',
            f"<title>{escape(title)}</title>",
            f"<style>{_style()}</style>",
            f'<rect class="page" width="{width}" height="{height}" rx="6"/>',
            *(_drawn(piece, number) for number, piece in enumerate(story) if piece.text),
            "</svg>",
            "",
        ]
    )


def _style() -> str:
    light = " ".join(f".{_name(style)}{{fill:{colours[0]}}}" for style, colours in _COLOURS.items())
    dark = " ".join(f".{_name(style)}{{fill:{colours[1]}}}" for style, colours in _COLOURS.items())
    return (
        "text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre} "
        f".page{{fill:#f6f8fa;stroke:#d0d7de}} .{STEP}{{font-weight:600}} {light} "
        f"@media (prefers-color-scheme:dark){{.page{{fill:#0d1117;stroke:#30363d}} {dark}}}"
    )


def _name(style: str) -> str:
    return style or "plain"


def _drawn(piece: Piece, number: int) -> str:
    y = _BORDER + round((number + 0.75) * _LINE)
    # xml:space for readers that do not know white-space:pre
    margin = f'<tspan class="dim">{escape(piece.margin)}</tspan>'
    place = f'x="{_BORDER}" y="{y}" xml:space="preserve"'
    return f'<text {place}>{margin}<tspan class="{_name(piece.style)}">{escape(piece.text)}</tspan></text>'


def asciicast(lines: Sequence[Line], rows: Sequence[Row], title: str) -> str:
    """Return the story as a recording for asciinema's player: each line in its second."""
    story = pieces(lines, rows)
    header = {"version": 2, "width": _COLUMNS, "height": len(story) + 1, "title": title}
    return "".join(f"{json.dumps(entry)}\n" for entry in [header, *map(_played, story)])


def _played(piece: Piece) -> list[object]:
    code = _COLOURS[piece.style][2]
    text = f"\x1b[{code}m{piece.text}\x1b[0m" if code else piece.text
    return [round(piece.second, 3), "o", f"\x1b[2m{piece.margin}\x1b[0m{text}\r\n"]
