"""Text from outside is made harmless for a terminal and a log, once: what was made harmless stays as it is."""

from __future__ import annotations

import pytest

from vmguard.core.words import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/vm/a.qcow2", "/srv/vm/a.qcow2"),
        ("Größe 日本", "Größe 日本"),
        ("C:\\disk", "C:\\disk"),
        ("a\nb", "a\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202etxt", "\\u202etxt"),
        ("\udc80", "\\udc80"),
        ("real \n, not \\n", "real \\n, not \\n"),
        ('it\'s "a"\t', 'it\'s "a"\\t'),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown, "a text that was made harmless stays as it is"
    assert printable(f"\x07{shown}") == f"\\x07{shown}", "also as a part of one that was not"
