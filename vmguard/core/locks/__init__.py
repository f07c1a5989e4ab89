"""Locks: what a claim locks, whose lock it is, and when it may be released.

claim_states    the states of a VM's claim, and when its locks may be released
file_guard      the state machine of a guarded file: what is known of its lock, and the events that change it
guard_states    the states of a guarded file, and the words for what else is known of it
owner_record    the record beside a disk: the host, the VM and the epoch of each claim
pin             the steps that move a lock onto the description that does the I/O
pin_step        the pinner's next step for one file, and when its VM is scanned again
plan            the files that a start locks, and the storage that no lock covers
ranges          the byte ranges that a claim holds and excludes
record_match    whether an owner record is about the file that it lies beside
refusal         the message of a refused start
retry           when a try that failed may be made again
saved_state     whether saved memory still fits its disks
"""
