"""What QEMU has open: /proc is the truth, and events only say when to look at it.

burst            many looks in the second after an event
libvirt_events   libvirt's own events
open_events      inotify: somebody opened a guarded file
periodic         slow rounds over all VMs
process_fds      the descriptors of one process
replaced_disks   whether a disk is still the file that its path leads to
settling_files   files that nobody announced, until they have been open for a moment
vm_scan_state    what the last look at a VM found
"""
