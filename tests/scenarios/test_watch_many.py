"""Many VMs on one mount: a storage reboot, and how soon all of them are judged. The bench is tests/bench/verdict."""

from __future__ import annotations

import pytest

from tests.bench.verdict_times import measure
from tests.support.watched_guests import LONG, Measured

pytestmark = pytest.mark.lab

COUNT = 500 if LONG else 50
#: seconds from the server's first answer until the last VM goes on
BUDGET = 2.0


def test_all_verdicts_come_soon_after_the_servers_first_answer(record_property: Measured) -> None:
    found = measure(COUNT)
    record_property(f"{COUNT} writers: first answer to the last thaw, s", found.verdicts[-1])
    record_property(f"{COUNT} writers: from the first freeze to the last, s", found.freezing)
    assert found.verdicts[-1] < BUDGET
