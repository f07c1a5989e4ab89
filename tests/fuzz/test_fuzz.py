"""Ten minutes of coverage-guided fuzzing of each target, in `tests/run --long` only (tests/conftest.py)."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.fuzz.targets import TARGETS

SECONDS = 600

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", TARGETS)
def test_fuzzing_finds_nothing(name: str, record_property: Callable[[str, float], None]) -> None:
    done = subprocess.run(
        ["nice", sys.executable, "-m", "tests.fuzz", name, str(SECONDS)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS + 120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    record_property(f"{name}: executions", float(re.findall(r"number_of_executed_units: (\d+)", done.stderr)[-1]))
    record_property(f"{name}: coverage", float(re.findall(r" cov: (\d+)", done.stderr)[-1]))
