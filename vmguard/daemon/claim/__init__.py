"""Take over claims and keep them until their VM has ended.

lifecycle             from a hook's offer to a running VM, and after a restart of the daemon
kinship               whose process a helper is, and who vouches for that
processes             QEMU and its helpers, followed by pidfd until they are proven dead
migration_target      takes over the disks of a VM that migrates to this host
fdstore_recovery      recovers descriptors that systemd kept but no state file mentions
qemu_finder           finds the processes that a hypervisor's pid files name
proxmox_start_tasks   tells when a start on Proxmox is over, by the task that runs it
"""
