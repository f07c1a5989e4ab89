"""What is done with the locks of a VM without a living QEMU, for every state and all that can be known."""

from __future__ import annotations

import itertools

import pytest

from vmguard.core.locks.claim_states import (
    LIVING,
    MOVES,
    SENTENCES,
    ReleaseEvidence,
    ReleaseStep,
    State,
    decide_release,
)

KNOWN = [
    ReleaseEvidence(*values)
    for values in itertools.product([True, False], [True, False], [None, (), ("qemu-img (pid 7)",)], [True, False])
]


@pytest.mark.parametrize("state", State)
def test_a_lock_is_released_on_proof_alone(state: State) -> None:
    for evidence in KNOWN:
        step, why = decide_release(state, evidence)
        may = (
            state not in LIVING
            and evidence.users == ()
            and not (state is State.OFFERED and evidence.claimant_alive)
            and not (state is State.CLAIMED and not evidence.start_is_over)
        )
        wanted = (ReleaseStep.RELEASE if evidence.drained else ReleaseStep.DRAIN) if may else ReleaseStep.WAIT
        assert (step, bool(why)) == (wanted, True), evidence


def test_each_state_has_its_moves_and_its_sentence() -> None:
    assert set(MOVES) == set(SENTENCES) == set(State)
    assert all(state not in MOVES[state] for state in State)
