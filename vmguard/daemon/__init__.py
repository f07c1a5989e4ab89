"""The daemon: holds the descriptors, follows the processes, releases only on proof.

main           the process: configuration, single instance, socket, signals
wiring         builds every part, each once
settings       what the configuration means for each part
adopt          VMs that run without a claim
api            requests over the socket
claim          claims, from a hook's offer to a running VM
fence          freeze, thaw, kill and the fence ladder
owner_records  records of claims beside the disks
pin            locks moved onto the descriptions that do the I/O
registry       the guarded VMs and their state files
release        locks let go of, on proof
report         history and notifications
runtime        the loop, threads and children
scan           what QEMU has open
watch          the watchdog's driver
"""
