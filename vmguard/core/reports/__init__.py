"""Reports: what people and monitoring are told.

fenced_vms      VMs that were killed lately
health          the one line about a host, and what to do now
local_time      times for people
metrics         the metrics of a host for Prometheus
pve_audit       what is wrong with the guard of a whole Proxmox cluster
status          OK, WARNING, CRITICAL, UNKNOWN
vm_report       the status of one VM and its disks (`vmguard check`)
"""
