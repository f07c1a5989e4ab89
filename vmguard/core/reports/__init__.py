"""Reports: what people and monitoring are told.

fenced_vms      VMs that were killed lately
metrics         the metrics of a host for Prometheus
pve_audit       what is wrong with the guard of a whole Proxmox cluster
unit_line       the line that `systemctl status` shows
vm_report       the status of one VM and its disks (`vmguard check`)
"""
