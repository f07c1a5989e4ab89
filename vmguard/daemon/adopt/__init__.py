"""VMs that run without a claim.

adopter         the request ``adopt``
unclaimed_qemu  finds them, and takes them up
"""
