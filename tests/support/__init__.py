"""Helpers that several tiers of tests share.

browser             a headless Chromium, driven without a script in the page
daemon_harness      the daemon's parts in the test's own loop, without a daemon
dead_share          an LD_PRELOAD library for which a folder is a share that does not answer
descriptors         descriptors of this process: none may be left open
disk_images         disk images written by hand; starts no process
fake_qemu           a process that vmguard takes for QEMU; starts in milliseconds
faulty_libc         an LD_PRELOAD library whose storage calls are slow or fail
fencer_harness      a real fencer over processes of this machine
file_guards         guards of files: in any state by events alone, and all events to be played in any order
guard               a private vmguard: real daemon, hook and commands in one folder
guarded_guests      lab guests with vmguard and QEMU on them
histories           lines of a host's history
libvirt_host        a private libvirtd with QEMU and vmguard in namespaces of its own
libvirt_operations  what libvirt can do to the files of a running VM, step by step
migration_peer      private libvirts between which VMs migrate
namespaces          mount and pid namespaces that end with the test
other_users         work done as another user, or as a squashed root
picture_histories   histories for pictures: outages, hostile names, names in other scripts
processes           processes that end with the test that started them
qemu_img            disk images made by qemu-img
receivers           a web server and a mail server that take messages, refuse them, or hang
service_manager     the service manager that a process notifies
source_tree         vmguard's modules, their imports, and circles among them
stand_ins           script: the command line with stand-ins for the programs that it runs
supervisor          script: ends a command and all of its descendants
watched_guests      what the watchdog's scenarios ask of guarded guests
world_sheet         what was seen in a world, row by row
world_table         the table of worlds, from what was kept of the sheets
worlds              kernels of hosts, kinds of servers, and a site in one of them
"""
