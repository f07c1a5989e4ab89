"""VMs that run without a claim.

adopter            the request ``adopt``
unclaimed_process  a process that no guarded VM has
unclaimed_qemu     finds them, and takes them up
"""
