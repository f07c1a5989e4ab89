"""Proxmox VE by its files, its API and its command qm.

api                  a whole cluster, from anywhere
chained_hookscripts  the hookscripts that VMs had before vmguard's
cluster_view         what an audit sees from a node
host                 the configurations in /etc/pve
hypervisor           Proxmox VE, as the port sees it
processes            QEMU and its helpers on this node
qm                   the hookscript of a VM
snippets             the hookscript's file on a node
storage_mounted      whether a VM's storages are mounted
"""
