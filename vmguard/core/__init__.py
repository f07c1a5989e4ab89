"""The pure core: what to lock, who owns it, what a verdict means. No system calls, no third-party imports.

locks       what a claim locks, whose lock it is, and when it may be released
notices     messages about events for people elsewhere
pictures    incidents as pictures: a history becomes intervals, and these SVG and HTML
reports     what people and monitoring are told: check, audit, metrics
sources     which files a VM uses: libvirt's XML, Proxmox's configuration, image headers, arguments of processes
servers     what a storage server says of itself, and what follows from it for people
watchdog    the state machine that decides every freeze, thaw and fence, and the fence ladder
lean_json   JSON without the import of json, for the hook
words       words of strangers: how each edge shows them

The names of hypervisors stand here because everybody needs them, the hook on its hot path too: what lies between is
loaded in any case.
"""

LIBVIRT = "libvirt"
PROXMOX = "proxmox"
#: nobody that we know manages the VM
BARE = "bare"
HYPERVISORS = (LIBVIRT, PROXMOX, BARE)
