"""``vmguard doctor``: what is unsafe on this host, why it matters, and the command that mends it.

Looking and judging are apart. ``look_*`` ask the kernel, the share, libvirt and the daemon, and fill in facts;
``judge_*`` are pure functions from facts to findings.

examine        the whole examination: looks at everything at once, then judges
facts          what was looked at
per_server     joins the findings that several mounts of one server have alike
muted          the checks that an admin does not want to be warned of for a while
finding        one finding: check, subject, level, text, and how to mend it
catalogue      every check, and why it matters
look_host      looks at this host: kernel, clock, NFS client id, watchdog device
look_modes     looks at who else may read or write the images
look_mount     looks at NFS mounts through /proc alone
look_share     looks through a share: owner records, images written to without a lock
scratch        tries locks with a scratch file on a share
look_guard     looks at vmguard itself and at libvirt
look_notify    looks at what keeps messages about events from being delivered
look_qemus     looks at the running QEMUs, and whose each is
look_confinement  looks at what Yama, SELinux and AppArmor forbid
look_proxmox   looks at Proxmox VE: version, hookscript, VMs without it
judge_host     findings about this host
judge_mount    findings about a mount, from its options and counters
judge_storage  findings about what a storage did with the scratch file, and about what lies on it
judge_server   findings about a storage server, from what it says of itself
judge_confinement  findings about what Yama, SELinux and AppArmor forbid
judge_guard    findings about vmguard, libvirt, Proxmox VE and one VM
judge_qemus    findings about the running QEMUs
mend           mends the NFS client id (``--fix identity``)
"""
