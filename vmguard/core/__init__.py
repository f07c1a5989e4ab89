"""The pure core: what to lock, who owns it, what a verdict means. No system calls, no third-party imports.

The names of hypervisors stand here because everybody needs them, the hook on its hot path too: what lies between is
loaded in any case.
"""

LIBVIRT = "libvirt"
PROXMOX = "proxmox"
#: nobody that we know manages the VM
BARE = "bare"
HYPERVISORS = (LIBVIRT, PROXMOX, BARE)
