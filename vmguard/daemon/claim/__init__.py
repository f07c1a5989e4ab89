"""Takes claims over and keeps them until their VM has ended.

lifecycle             from a hook's offer to a running VM, and after a restart of the daemon
kinship               whose process a helper is, and who vouches for that
processes             QEMU and its helpers, followed by pidfd until they are proven gone
migration_target      a VM that migrates to this host: its disks are still the source's, and then they are ours
fdstore_recovery      descriptors that systemd kept but no state file mentions
qemu_finder           the processes that a hypervisor's pid files name
proxmox_start_tasks   when a start on Proxmox is over, by the task that runs it
"""
