"""The kernel and systemd, as this host has them.

atomic_file         files written in folders that may be somebody else's
bounded_child       work that may hang on the share, in a child with a deadline
clock               CLOCK_BOOTTIME, and wall time for people
clock_sync          whether somebody disciplines the wall clock
configured_mounts   the shares that are to be mounted: fstab, units, netfs pools
descriptors         how many this process has, and may have
first_use           whether the admin has put vmguard to use
fs_user             file system calls as another user
hardware_watchdog   the reset of the host
host_identity       host name, machine id, boot id
inotify             opens of guarded files
journal             log lines that never wait
keeper              the process that starts the daemon's programs
kmsg                the kernel's log
libc                system calls that Python does not offer, and their errors
may_block           the reads of /proc that may never come back
mount_table         this host's mounts as an object, so that tests can stand in
mounts              mountinfo: what a mount is, and what its locks are worth
mountstats          what the kernel counts on each NFS mount
nfs_server          this host's own NFS server: its exports and its grace period
ofd                 open file description locks
oom_and_scheduling  memory, OOM score, scheduling, limits of this process
parcel              a descriptor in the queue of a socket
pid_file            the process that a hypervisor's pid file names, if both can be believed
pidfd               signals and copies of descriptors
proc                processes and their open files: the reads that answer at once
programs            other programs, run with a deadline
regular_file        an open that opens files alone
roots_file          a file that only root can have written
sockets             listening sockets under a path
spawn               new processes, without waiting for the storage
standing            what the kernel vouches for of a process: its users, its control group, its ancestors
statefile           JSON files that are replaced atomically
statx               a file's size, asked of its server anew
systemd             socket activation, descriptor store, readiness
vcpus               whether a guest runs
"""
