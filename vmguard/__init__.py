"""vmguard: a guard for the disks of virtual machines on NFSv4. README.md beside this file is the map.

__main__  python -m vmguard
adapters  the only home of system calls
cli       the commands
config    the configuration
core      the pure core: what to lock, the watchdog's machine, reports
daemon    the daemon
doctor    what is unsafe on this host, and how it is mended
errors    all errors that people see
faults    points at which tests end a process
hook      what libvirt and Proxmox call at each start
jobs      programs that run as children
protocol  the messages between all of these
query     what the commands find out about a VM
"""

__version__ = "0.1.0"
