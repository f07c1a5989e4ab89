"""Fuzz one target: python -m tests.fuzz TARGET SECONDS. A find ends it with status 1 and is printed with its bytes."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

SEEDS = Path(__file__).with_name("seeds")
#: longest input, in bytes: a parser's own limits are tested elsewhere
_LONGEST = 4096


def main() -> None:
    name, seconds = sys.argv[1], int(sys.argv[2])
    import atheris

    with atheris.instrument_imports(include=["vmguard", "yaml"]):
        from tests.fuzz import targets
    logging.disable(logging.CRITICAL)

    def once(data: bytes) -> None:
        try:
            targets.run(name, data)
        except Exception:
            print(f"FOUND in {name}: {data!r}", file=sys.stderr, flush=True)
            raise

    with tempfile.TemporaryDirectory() as corpus:
        options = [f"-max_total_time={seconds}", f"-max_len={_LONGEST}", "-timeout=10", "-print_final_stats=1"]
        atheris.Setup(["fuzz", *options, f"-artifact_prefix={corpus}/", corpus, str(SEEDS / name)], once)
        atheris.Fuzz()


main()
