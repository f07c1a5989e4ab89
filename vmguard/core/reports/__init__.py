"""Reports: what people and monitoring are told.

metrics         the metrics of a host for Prometheus
pve_audit       what is wrong with the guard of a whole Proxmox cluster
vm_report       the status of one VM and its disks (`vmguard check`)
"""
