"""The message of a start that is refused over a reader's lock: who reads, what that is not, and what to do."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from vmguard.core.locks.owner_record import Owner
from vmguard.core.locks.refusal import Here, Holder, in_use
from vmguard.hook.wait_line import line

NOW = datetime.datetime(2026, 11, 20, 13, 12, 0, tzinfo=datetime.UTC)
HERE = Here("hyp-a", "m", "b")
LAST = Owner(4, host="hyp-a", machine="m", boot="b", vm="web", claimed="2026-11-20T13:00:00Z")
READER = Holder(LAST, "", ("python3 (pid 12, user eva)",), 90.0, shared=(4096, 1))
CLAIM = replace(READER, local_users=(), shared=None)


def told(holder: Holder) -> tuple[str, str]:
    lines, hint = in_use("/srv/vm/web.raw", "web", HERE, holder, NOW, 3.0)
    return "\n".join(lines), hint


def test_a_reader_here_is_named_and_the_last_claim_is_not_taken_for_it() -> None:
    message, hint = told(READER)
    first, held, *_ = message.splitlines()
    assert "is locked by a reader (a shared lock) on this host: python3 (pid 12, user eva) (waited 3 s)" in first
    assert held == "  held by  : nobody as a disk of a VM; its last claim was host hyp-a's, VM 'web', epoch 4"
    assert "chmod o-rwx" in hint
    assert "a reader (a shared lock) on this host: python3" in line("/srv/vm/web.raw", READER, 5.0)


def test_a_reader_elsewhere() -> None:
    message, hint = told(replace(READER, local_users=()))
    assert "is locked by a reader (a shared lock) on another host" in message
    assert "alive?   : cannot be known from here, but its lock is" in message
    assert "on the other hosts that mount this share" in hint


@pytest.mark.parametrize("shared", [None, (100, 1), (103, 101)])
def test_control_a_claim_and_the_image_locks_of_a_qemu_are_no_readers(shared: tuple[int, int] | None) -> None:
    """A QEMU takes shared locks on bytes 100 to 299 alone, also while it writes."""
    message, hint = told(replace(CLAIM, shared=shared))
    assert "is locked by this host itself" in message
    assert "stop VM 'web' first" in hint
