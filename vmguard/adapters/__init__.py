"""The only home of system calls: locks, files on the share, /proc, a hypervisor's own files.

hypervisor   the port: what differs between hypervisors
hypervisors  the table of them, and the VM that nobody manages
linux        the kernel and systemd
messages     messages to people elsewhere: the queue, mail, web hooks, services
servers      storage servers, asked about themselves
storage      files on the share: opening, probing, owner records
libvirt      libvirt's files and its hook
proxmox      Proxmox VE's files, API and hookscripts
"""
