"""Files on the share. Nearly every call here is a request to a server, and may hang.

backing_chain  a VM's files, opened from its sources
delegation     how the NFS client gives a delegation back
fencing_token  the newest epoch of a disk's owner record
files          one descriptor for each file
libvirt_pools  the path of a pool volume
lock_holder    what stands in the way of a lock
lock_probe     whether the server honours a lock
nfs_client_id  this host's NFS client id
owner_record   the records of claims beside the disks
path_walk      what lies at a path, held and not opened
probe_calls    the system calls of a probe
reach          where links and headers on a share may lead
record_sweep   the end of the records and lists of deleted disks
replaced       whether an open file is still the one that its path leads to
"""
