"""The problems of a configuration, each with its file, line and key, and the error that carries all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from vmguard.core.words import printable
from vmguard.errors import ConfigError

#: problems shown in the message of an error; ``BadConfig.problems`` has them all
_MAX_SHOWN = 20
#: characters of an invalid value that are quoted
_MAX_QUOTED = 60


@dataclass(frozen=True, order=True)
class Problem:
    """One problem. When it concerns the whole file, ``line`` is 0 and ``key`` is empty."""

    file: str
    line: int
    key: str
    text: str

    def __str__(self) -> str:
        where = f"{printable(self.file)}:{self.line}" if self.line else printable(self.file)
        return f"{where}: {printable(self.key)}: {self.text}" if self.key else f"{where}: {self.text}"

    def as_json(self) -> dict[str, str | int]:
        return asdict(self)


class BadConfig(ConfigError):
    """An invalid configuration, with all of its problems."""

    def __init__(self, problems: Iterable[Problem], hint: str = "correct it, then try: vmguard config check") -> None:
        self.problems = tuple(sorted(set(problems)))
        lines = [str(problem) for problem in self.problems[:_MAX_SHOWN]]
        if len(self.problems) > _MAX_SHOWN:
            lines.append(f"and {len(self.problems) - _MAX_SHOWN} more problems")
        super().__init__(lines[0] if lines else "", hint, lines[1:])


def quoted(text: str) -> str:
    """Return a value from a file as an error shows it: harmless for a terminal, and shorter than a line."""
    return f"'{printable(text[:_MAX_QUOTED])}{'…' if len(text) > _MAX_QUOTED else ''}'"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'wait'?`` if a known word is close, else nothing."""
    import difflib

    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
