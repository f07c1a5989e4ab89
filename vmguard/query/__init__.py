"""Finds out what is known about a VM and its files, for the command line and the doctor, with or without the daemon.

It asks the daemon, /run, the files of libvirt and Proxmox VE, and the share. Whatever touches a share runs in a child
that is killed at its deadline.

places        where to look: directories and a timeout, from the configuration
answers       what the daemon and the share answer, as types
json_fields   reads the fields of a JSON object with their types
running       whether the daemon runs, without starting it
ask_daemon    asks the daemon, or reads its state files while it is down
other_mounts  writable files on mounts where no lock is proven to reach other hosts
server_cache  the last answer of a file's storage server, as the daemon keeps it
ask_share     asks the share: the lock and owner record of one file, or every record that names a VM
start_plan    which files the start of a VM would lock
lookup        finds a VM by name, uuid or VMID, and its files
judge         decides what the answers mean: verdicts and statuses; pure
host_state    the state of this host for its health line; pure
wording       puts verdicts into sentences for people; pure
reports       puts it all together: ``check``, ``who``, ``elsewhere``
"""
