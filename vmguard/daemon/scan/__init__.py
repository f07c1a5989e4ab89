"""What QEMU has open: /proc is the truth, and events only say when to read it.

burst            many scans in the second after an event
libvirt_events   libvirt's own events
open_events      inotify: a guarded file was opened
periodic         scans of all VMs, at an interval that their cost sets
process_fds      the descriptors of one process
replaced_disks   whether a disk is still the file that its path leads to
settling_files   unannounced files, until they have been open for a moment
turns            a share of the time for each look at a process
vm_scan_state    what the last scan of a VM found
"""
