"""Which lines of the kernel's log are a reason to probe every lock: the NFS client's, and none that a user can have."""

from __future__ import annotations

import pytest

from vmguard.adapters.linux.kmsg import is_telling


@pytest.mark.parametrize(
    "line",
    [
        "NFS: 10.0.0.1: lost 1 locks",
        "NFS: fd00::1: lost 12 locks",
        "NFS: nfs4_reclaim_open_state: Lock reclaim failed!",
        "NFS: state manager: lease expired failed on NFSv4 server nas with error 5",
        "NFSv4: state recovery failed for open file /web.raw, error = -116",
        "NFSv4: state recovery failed for open file vm/a[12]: b, error = -116",
    ],
)
def test_what_the_nfs_client_says_of_lost_locks_is_a_hint(line: str) -> None:
    assert is_telling(line)


@pytest.mark.parametrize(
    "line",
    [
        "NFS lost 2 lock[4711]: segfault at 0 ip 0000 sp 0000 error 4 in NFS: nas: lost 2 locks[55d0+1000]",
        "NFS: nas: lost [7]: segfault at 0 ip 0000 sp 0000 error 4 in reclaim_locks[55d0+1000]",
        "traps: NFS: lost 2 loc[7] general protection fault ip:0 sp:0 error:0 in NFS: lost 2 locks[55d0+1000]",
        "NFS: nas: not responding, still trying",
        "",
    ],
)
def test_what_a_user_can_have_the_kernel_say_is_none(line: str) -> None:
    assert not is_telling(line)
