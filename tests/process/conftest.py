"""Fixtures of several modules: strangers to a VM, and control groups, both ended behind the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_groups import ControlGroups
from tests.support.strangers import Strangers


@pytest.fixture
def strangers() -> Iterator[Strangers]:
    strangers = Strangers()
    yield strangers
    strangers.end()


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[ControlGroups]:
    groups = ControlGroups(tmp_path / "groups")
    yield groups
    groups.end()
