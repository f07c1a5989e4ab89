"""What is wrong with a configuration: every problem with its file, line and key, and the error that carries them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from vmguard.core.locks.plan import printable
from vmguard.errors import ConfigError

#: problems named in the message of an error; ``problems`` has them all
_SHOWN = 20
#: characters of a bad value that are quoted
_QUOTED = 60


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong. ``line`` is 0 where the whole file is meant, ``key`` is empty then, too."""

    file: str
    line: int
    key: str
    text: str

    def __str__(self) -> str:
        where = f"{printable(self.file)}:{self.line}" if self.line else printable(self.file)
        return f"{where}: {printable(self.key)}: {self.text}" if self.key else f"{where}: {self.text}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class BadConfig(ConfigError):
    """A configuration that is not taken, with all of its problems, not only the first."""

    def __init__(self, problems: Iterable[Problem], hint: str = "correct it, then try: vmguard config check") -> None:
        self.problems = tuple(sorted(set(problems)))
        lines = [str(problem) for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"and {len(self.problems) - _SHOWN} more problems")
        super().__init__("\n".join(lines), hint)


def quoted(text: str) -> str:
    """A value from a file as an error shows it: harmless for a terminal, and not longer than a line."""
    return f"'{printable(text[:_QUOTED])}{'…' if len(text) > _QUOTED else ''}'"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'wait'?`` or nothing."""
    import difflib

    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
