"""Programs that the daemon starts as children: what they do may hang, and then they can be killed.

ask_server       ask a storage server about itself, keep its answer
cut              abort all queued requests of a mount
drain            wait until nothing of a dead QEMU is queued
hypervisor       start a VM, or have its end cleaned up
keeper           start the daemon's programs, have copies of what systemd keeps
libvirt_events   pass on libvirt's events
mark_released    mark owner records as released
notify           send what waits for a target of notify.targets
set_guest_clock  set a guest's clock to the host's
write_records    write owner records for files that were locked without a hook
"""
