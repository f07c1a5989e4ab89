"""JSON as QEMU reads it in the name of an image: a string may stand in single quotes, too. Pure."""

from __future__ import annotations


def in_double_quotes(text: str) -> str:
    """Return QEMU's JSON, where a string may stand in single quotes, as everybody else's."""
    if "'" not in text:
        return text
    pieces: list[str] = []
    quote = ""
    letters = iter(text)
    for letter in letters:
        if quote and letter == "\\":
            escaped = next(letters, "")
            pieces.append("'" if escaped == "'" else letter + escaped)
        elif letter == quote or (not quote and letter in "'\""):
            quote = "" if quote else letter
            pieces.append('"')
        else:
            pieces.append('\\"' if letter == '"' else letter)
    return "".join(pieces)
