"""Storage servers, asked about themselves: what their administration knows and no NFS client can see.

port        what can be asked of a storage server
knfsd       the Linux kernel's server, asked through the probe
probe       the program that runs on a Linux server; knows nothing of vmguard
transport   gets the probe to the server and its answer back, with a deadline
cache       the last answer of each server, on this host
"""
