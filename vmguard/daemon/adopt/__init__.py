"""VMs that run without a claim.

adopter            the request ``adopt``
few_warnings       warnings about processes of strangers, so many a minute
other_processes    processes that look like no QEMU, and what shows that one runs a VM after all
unclaimed_process  a process that no guarded VM has
unclaimed_qemu     finds them, and takes them up
"""
