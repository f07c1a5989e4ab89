"""Locks: what a claim locks, whose lock it is, and when it may be released.

claim_states    the states of a VM's claim, and when its locks may be released
owner_record    the record beside a disk: the host, the VM and the epoch of each claim
pin             the steps that move a lock onto the description that does the I/O
plan            the files that a start locks, and the storage that no lock covers
ranges          the byte ranges that a claim holds and excludes
refusal         the message of a refused start
"""
