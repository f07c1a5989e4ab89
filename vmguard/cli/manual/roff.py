"""Writes a manual page as roff (man(7)): sections, paragraphs, tagged lists, literal blocks."""

from __future__ import annotations

from collections.abc import Iterable


def escape(text: str) -> str:
    """Escape a text: no backslash, leading dot or hyphen in it means anything to roff then."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in text.split("\n"))


class Page:
    """One page. Each method appends to it; ``text()`` returns the whole."""

    def __init__(self, name: str, section: int, version: str, date: str, summary: str) -> None:
        self.name = name
        self._lines = [
            f'.TH "{escape(name.upper())}" "{section}" "{date}" "vmguard {escape(version)}" "vmguard"',
            ".SH NAME",
            f"{escape(name)} \\- {escape(summary)}",
        ]

    def section(self, title: str) -> None:
        self._lines.append(f'.SH "{escape(title.upper())}"')

    def subsection(self, title: str) -> None:
        self._lines.append(f'.SS "{escape(title)}"')

    def paragraph(self, text: str) -> None:
        self._lines += [*self._apart(), escape(" ".join(text.split()))]

    def tagged(self, tag: str, text: str) -> None:
        """Append an entry of a list: the tag in bold, its text indented below."""
        self._lines += [".TP", f"\\fB{escape(tag)}\\fR", escape(" ".join(text.split())) or "\\&"]

    def literal(self, lines: Iterable[str]) -> None:
        self._lines += [*self._apart(), ".in +4n", ".nf", *(escape(line) or "\\&" for line in lines), ".fi", ".in"]

    def _apart(self) -> list[str]:
        """Return what separates a paragraph from the text before; after a title nothing is needed."""
        return [] if self._lines[-1].startswith((".SH", ".SS")) else [".PP"]

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"
