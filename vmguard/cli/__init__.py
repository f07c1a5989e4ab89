"""The command line: one module for each command, and what the commands share.

Only ``main`` turns errors into an exit status. Every command prints through ``output``, for people or as JSON.

main            runs a command: global options, the table of commands, errors, exit status
output          prints text, tables, colours and JSON; shows hostile names harmlessly
wrapping        breaks lines between words, for a terminal
arguments       types of option values for argparse
host            the first and the last line of each command: how this host stands, what to do now
past            the history, from the daemon's file or from the daemon
places          directories and timeout for ``vmguard.query``, from the configuration
steps           the steps that a command took, for commands that change this host
schemas         the JSON that each command prints with --json
json_schema     the same as JSON Schema, for the packages
check           ``check VM``: is it guarded, by which host, and what to do
status          ``status``: every VM that this host guards, and its leases
history         ``history``: what the watchdog saw and did
picture_files   ``--html`` and ``--svg``: incidents as pictures
verify_journal  ``verify-journal``: can the watchdog have written this history
timing          ``timing``: what happens when in an outage
maintenance     ``maintenance`` (``disarm``): the watchdog only reports for a while
arm             ``arm``: ends a maintenance early
who             ``who FILE``: who holds a disk image
adopt           ``adopt``: guards VMs that run already
storage         ``storage``: what the storage servers themselves know
doctor          ``doctor``: what is unsafe on this host, and how to mend it
enable          ``enable HYPERVISOR``
disable         ``disable HYPERVISOR``
enable_libvirt  enable and disable for libvirt: the hook, and the proof that libvirt calls it
enroll          enable and disable for Proxmox VE: the hookscript, VM by VM
audit           ``audit``: what the guard of a Proxmox cluster misses
plan            ``plan``: which files a start would lock
config_cmd      ``config check|show|example``
hook_script     ``hook-script``: prints a hook with this installation's paths
metrics         ``metrics``: prints, writes or serves metrics for Prometheus
notify          ``notify test|status``: messages to those who are told of events
notify_watch    ``notify watch``: tells them that the daemon is down
report          ``report``: packs an archive for a bug report
merge           ``report --merge``: several hosts' histories in one picture and one table
man             ``man PAGE``: prints a manual page as roff
manual          the texts of the manual pages
completion      ``completion``: prints the completion for a shell, and the names of VMs that it offers
daemon          ``daemon``: runs the daemon
"""
