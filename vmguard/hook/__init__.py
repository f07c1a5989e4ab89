"""The hypervisors' hooks: thin clients of the daemon, standard library only, quick to import.

operations      the contract of each hypervisor's hook, as a table
libvirt         libvirt's qemu hook
proxmox         Proxmox VE's hookscript
entry           what both have in common: serve one event, find the daemon, print messages
vm_to_claim     the VM, the time limits, and the pipe from a claim's child to the hook
claim           the claim's two processes, and what they tell the daemon
claim_on_share  the claim's work on the share: open, judge, lock, write owner records
claim_incoming  the claim of a VM that comes in by live migration
absent_shares   a share that is configured, but not mounted below a VM's disk
claim_delegated  the claim of a disk that the NFS server has delegated to this host
claim_in_grace  the claim on a file system that this host exports, while its NFS server is in its grace period
claim_other_mount  the claim of a file on a mount whose locks prove nothing
claim_proof     the proof of a claim's locks where something happened to the NFS client meanwhile
claim_replaced  the claim on a file that replaced another one
claim_saved     the claim of a VM that starts from saved memory
claim_wait      for how long a lock is tried for where the hook may wait
wait_line       one line for the task log while a start waits for a lock
daemon_absent   what a start does without a daemon
session_vm      what a start does for an ordinary user's VM (qemu:///session)
prefork         processes started in advance, so that a start need not wait for an interpreter
"""
