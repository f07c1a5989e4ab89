"""Which saved memory fits a disk, by the disk's owner record."""

from __future__ import annotations

import datetime

import pytest

from vmguard.core.locks.owner_record import Owner
from vmguard.core.locks.saved_state import MAX_FAILED, why_stale

UUID, OTHER = "66666666-6666-4666-8666-666666666666", "77777777-7777-4777-8777-777777777777"
HERE, THERE = "a" * 32, "b" * 32


def at(second: int) -> float:
    """Return a time within the minute that the tests play in, in seconds since the epoch."""
    return datetime.datetime(2026, 11, 20, 13, 0, second, tzinfo=datetime.UTC).timestamp()


def run(
    begin: int, end: int | None = None, ended: str = "", uuid: str = UUID, machine: str = HERE, host: str = "alpha"
) -> Owner:
    stamps = {"claimed": f"2026-11-20T13:00:{begin:02}Z", "released": f"2026-11-20T13:00:{end:02}Z" if end else ""}
    return Owner(begin, host=host, machine=machine, vm="web", uuid=uuid, ended=ended, **stamps)


def unreadable(owner: Owner) -> Owner:
    owner.claimed = "yesterday"
    return owner


UNKNOWN = 0.0
FITS = {
    "no record": ([], at(20)),
    "saved here": ([run(10, 20, "saved")], at(19)),
    "saved here, the image is not known": ([run(10, 20, "saved")], UNKNOWN),
    "an older libvirt does not say why it ended": ([run(10, 20)], at(19)),
    "the host went down before the release was written": ([run(10)], at(19)),
    "the image was edited later": ([run(10, 20, "saved")], at(50)),
    "a restore that failed is tried again": ([run(30, 31, "failed"), run(10, 20, "saved")], at(19)),
    "it failed as often as is looked for": (
        [*(run(40, 41, "failed") for _ in range(MAX_FAILED)), run(10, 20, "saved")],
        at(19),
    ),
    "it failed twice": ([run(40, 41, "failed"), run(30, 31, "failed"), run(10, 20)], at(19)),
    "saved there, restored here": ([run(10, 20, "saved", machine=THERE)], at(19)),
    "saved there, by an older libvirt": ([run(10, 20, machine=THERE)], at(19)),
    "saved, restored, saved again": ([run(30, 40, "saved"), run(10, 20, "saved")], at(39)),
}
STALE = {
    "another host ran it since": ([run(30, 40, "shutdown", machine=THERE, host="beta"), run(10, 20, "saved")], at(19)),
    "another host, an older libvirt": ([run(30, 40, machine=THERE, host="beta"), run(10, 20)], at(19)),
    "another host, the image is not known": ([run(30, 40, machine=THERE, host="beta")], UNKNOWN),
    "another host never released it": ([run(10, machine=THERE, host="beta")], at(19)),
    "it was restored before, and shut down": ([run(30, 40, "shutdown"), run(10, 20, "saved")], UNKNOWN),
    "it was restored before, an older libvirt": ([run(30, 40), run(10, 20)], at(19)),
    "the older one of two images": ([run(30, 40, "saved"), run(10, 20, "saved")], at(19)),
    "an older image, copied here with a new time": ([run(10, 20, "saved", machine=THERE)], at(50)),
    "another VM": ([run(30, 40, "saved", uuid=OTHER), run(10, 20, "saved")], at(39)),
    "another VM failed to start": ([run(30, 40, "failed", uuid=OTHER), run(10, 20, "saved")], at(19)),
    "another host, and nobody knows when": ([unreadable(run(10, 20, machine=THERE, host="beta"))], at(19)),
    "it failed so often that nobody knows who ran it before": (
        [run(40, 41, "failed") for _ in range(MAX_FAILED + 1)],
        at(19),
    ),
    "failed, after another host ran it": (
        [run(50, 51, "failed"), run(30, 40, machine=THERE, host="beta"), run(10, 20, "saved")],
        at(19),
    ),
}


@pytest.mark.parametrize("name", FITS)
def test_memory_that_fits_is_resumed(name: str) -> None:
    claims, saved_at = FITS[name]
    assert why_stale(claims, UUID, ("alpha", HERE), saved_at) == ""


@pytest.mark.parametrize("name", STALE)
def test_memory_that_is_older_than_the_disk_is_not(name: str) -> None:
    claims, saved_at = STALE[name]
    assert why_stale(claims, UUID, ("alpha", HERE), saved_at)


def test_the_reason_names_who_ran_it_since() -> None:
    claims, saved_at = STALE["another host ran it since"]
    why = why_stale(claims, UUID, ("alpha", HERE), saved_at)
    assert "host beta, VM 'web', epoch 30, claimed 2026-11-20T13:00:30Z" in why
