"""Puts each lock onto the description that does the I/O, and keeps it there.

pinner          scans VMs, orders pins, follows what QEMU opens, lets go of what it closes
lock_transfer   the steps of one pin, in a worker: each is a lock call that may hang
relock          takes a lost lock anew on a file that the VM could live without
fd_copies       our copies of QEMU's descriptions: which are kept, and when
"""
