"""The watchdog: the pure state machine that decides every freeze, thaw and fence.

case            what one VM's locks and rivals call for, by the admin's policy
events          the events that it is told and the effects that it orders
fence_ladder    the steps of a fence, their proofs and deadlines
lease           the phase of a mount's lease, and the verdict on each lock
machine         the machine itself: one step for each event
policy          the admin's choices for one VM
stance          what is to be done with one VM
states          the states of a mount and of a lock, as tables
trace           a host's history against the moves that the machine allows
timing          all time spans, derived from the server's lease
"""
