"""Put each lock onto the description that does the I/O, and keep it there.

pinner          scans VMs, orders pins, follows what QEMU opens, releases what it closes
lock_transfer   the steps of one pin, in a thread: each is a lock call that may hang
after_reboot    brings locks to the server that its reboot has left in this client
backup_files    tells the files of a backup from the disks of the VM
unannounced     which files of a VM get a lock although no claim has named them
relock          takes a lost lock anew on a file that the VM could live without
fd_copies       our copies of QEMU's descriptions: which are kept, and when
"""
