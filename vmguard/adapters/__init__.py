"""The only home of system calls: locks, files on the share, /proc, libvirt's own files."""
