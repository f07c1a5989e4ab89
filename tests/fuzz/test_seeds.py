"""Every seed of every fuzzing target, once: in the pure tier, so that a target that has rotted is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import targets

SEEDS = Path(__file__).with_name("seeds")


@pytest.mark.parametrize("name", targets.TARGETS)
def test_seeds_end_well_or_in_an_error_of_ours(name: str) -> None:
    seeds = sorted((SEEDS / name).iterdir())
    assert seeds
    for seed in seeds:
        data = seed.read_bytes()
        for length in {len(data), len(data) // 2, 0}:
            targets.run(name, data[:length])


def test_no_seed_lies_where_no_target_is() -> None:
    assert {folder.name for folder in SEEDS.iterdir()} == set(targets.TARGETS)


def test_negative_control_a_foreign_error_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> None:
        raise KeyError(data)

    monkeypatch.setitem(targets.TARGETS, "wire", broken)
    with pytest.raises(KeyError):
        targets.run("wire", b"")
