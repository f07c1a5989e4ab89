"""The VMs and files that this host guards.

guarded_vm     one VM: its claim, its processes, its files
guarded_file   one file: its identity, and its guard (vmguard/core/locks/file_guard.py)
store          all VMs by id, mirrored in state files
"""
