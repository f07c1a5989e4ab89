"""Findings about vmguard itself, libvirt, Proxmox VE and one VM. Pure."""

from __future__ import annotations

from vmguard.core.words import shell_word
from vmguard.doctor.facts import DiskFacts, GuardFacts, LibvirtFacts, ProxmoxFacts, VmFacts
from vmguard.doctor.finding import Finding, fail, ok, warn

#: before this version `virsh destroy` may report success while QEMU hangs in the kernel
#: (virProcessKillPainfullyDelay): seen in 9.0.0, not in 11.3.0
_FALSE_DESTROY = (11, 3, 0)
#: from this version on libvirt runs every hook in qemu.d
_FOLDER_SINCE = (6, 5, 0)
#: from this version on external data files are in the domain XML
_DATA_STORE = (10, 10, 0)
_OLDEST_PVE = (8, 0)


def judge_guard(guard: GuardFacts) -> list[Finding]:
    """Judge the daemon, its configuration and the VMs that it guards."""
    return [
        _daemon(guard),
        *_armed(guard),
        *_descriptors(guard),
        *_boot(guard),
        *_units(guard),
        _config(guard),
        *_notify(guard),
        *_vms(guard),
    ]


def _daemon(guard: GuardFacts) -> Finding:
    if guard.daemon:
        mend = "systemctl enable --now vmguard.socket vmguard.service; journalctl -u vmguard"
        return fail("guard.daemon", "vmguard", guard.daemon, mend)
    if guard.version != guard.own_version:
        text = f"the daemon is {guard.version}, this command {guard.own_version}"
        return warn("guard.daemon", "vmguard", text, "systemctl restart vmguard   # no lock is lost by it")
    return ok("guard.daemon", "vmguard", f"the daemon answers, version {guard.version}")


def _armed(guard: GuardFacts) -> list[Finding]:
    found = []
    if guard.disarmed:
        found.append(warn("guard.armed", "vmguard", guard.disarmed.sentence, "vmguard arm"))
    found += [
        warn(
            "guard.armed",
            "vmguard",
            f"{setting}: nothing protects a disk then",
            f"vmguard config show; then take {setting.partition(':')[0]} out of /etc/vmguard/vmguard.yaml",
        )
        for setting in guard.lame
    ]
    return found or ([] if guard.daemon else [ok("guard.armed", "vmguard", "the watchdog is armed")])


def _descriptors(guard: GuardFacts) -> list[Finding]:
    files = guard.descriptors
    if files is None:
        return []
    if not files.alarm:
        return [ok("guard.descriptors", "vmguard", f"{files.used} of {files.limit} file descriptors are in use")]
    mend = f"systemctl edit vmguard   # [Service] LimitNOFILE={2 * files.limit}; then: systemctl restart vmguard"
    return [warn("guard.descriptors", "vmguard", files.sentence, mend)]


def _boot(guard: GuardFacts) -> list[Finding]:
    if guard.enabled is None:
        return []
    if guard.enabled:
        return [ok("guard.boot", "vmguard", "systemd starts it at boot")]
    mend = "systemctl enable vmguard.socket vmguard.service"
    return [warn("guard.boot", "vmguard", "systemd does not start it at boot", mend)]


def _units(guard: GuardFacts) -> list[Finding]:
    if guard.units is None:
        return []
    found = []
    for unit in guard.units:
        name, folders = shell_word(unit.name), " ".join(map(shell_word, unit.missing))
        if unit.missing:
            text = f"{unit.name} cannot start: there is no folder {', '.join(unit.missing)}"
            mend = f"install -d {folders} && systemctl restart {name}   # node_exporter: --collector.textfile.directory"
            found.append(warn("guard.units", "vmguard", text, mend))
        elif unit.failed:
            mend = f"journalctl -u {name} -n 20; then: systemctl reset-failed {name} && systemctl restart {name}"
            found.append(warn("guard.units", "vmguard", f"{unit.name} does not run: {unit.failed}", mend))
    return found or [ok("guard.units", "vmguard", "no unit of vmguard is kept from running")]


def _config(guard: GuardFacts) -> Finding:
    if guard.config_problems:
        return fail("guard.config", "vmguard", "; ".join(guard.config_problems[:3]), "vmguard config check")
    return ok("guard.config", "vmguard", "the configuration is right")


def _notify(guard: GuardFacts) -> list[Finding]:
    if not guard.targets:
        return []
    found = [warn("guard.notify", f"target {name}", why, mend) for name, why, mend in guard.untold]
    return found or [ok("guard.notify", "vmguard", f"nothing keeps {guard.targets} targets from being told")]


def _vms(guard: GuardFacts) -> list[Finding]:
    found = [
        fail("guard.vms", f"VM {name}", "runs on this host without its locks", f"vmguard adopt {shell_word(name)}")
        for name in guard.unguarded
    ]
    found += [fail("guard.vms", f"VM {name}", text, do_now) for name, text, do_now in guard.troubled]
    found += [
        warn("guard.vms", f"VM {name}", f"guarded, but weaker: {why}", f"vmguard check {shell_word(name)}")
        for name, why in guard.weaker
    ]
    return found or ([] if guard.daemon else [ok("guard.vms", "vmguard", "every VM that runs here has its locks")])


# -- libvirt --------------------------------------------------------------------------------------------------------


def judge_libvirt(libvirt: LibvirtFacts) -> list[Finding]:
    """Judge libvirt and the hook in it; no findings where there is no libvirt."""
    if libvirt.version is None:
        return []
    return [_hook(libvirt), _version(libvirt.version), *_windows(libvirt)]


def _hook(libvirt: LibvirtFacts) -> Finding:
    at, enable = "libvirt", "vmguard enable libvirt"
    if not libvirt.hooks:
        return fail("libvirt.hook", at, "vmguard's hook is not installed: VMs start unguarded", enable)
    if len(libvirt.hooks) > 1:
        paths = [path for path, _, _ in libvirt.hooks]
        cure = f"rm {' '.join(map(shell_word, paths[1:]))}"
        return fail("libvirt.hook", at, f"vmguard's hook is there twice: {', '.join(paths)}", cure)
    [(path, executable, missing)] = libvirt.hooks
    if not executable:
        return fail(
            "libvirt.hook", at, f"{path} is not executable: libvirt goes past it without a word", f"chmod 755 {path}"
        )
    if missing:
        return fail("libvirt.hook", at, f"{path} names {missing}, which is not there: every start is refused", enable)
    if libvirt.proof == "not-called":
        return fail("libvirt.hook", at, f"libvirt does not call {path}: {libvirt.proof_words}", enable)
    if libvirt.proof == "called":
        return ok("libvirt.hook", at, f"libvirt calls {path} and obeys it (proven with a VM that cannot start)")
    if not libvirt.running:
        return ok("libvirt.hook", at, f"{path} is installed; libvirt does not run, and will read it when it starts")
    return warn("libvirt.hook", at, f"whether libvirt calls {path} could not be seen: {libvirt.proof_words}", enable)


def _version(version: tuple[int, ...]) -> Finding:
    name, traps = ".".join(map(str, version)), []
    if version < _FOLDER_SINCE:
        return warn(
            "libvirt.version",
            "libvirt",
            f"{name} runs one hook only, no folder qemu.d",
            "upgrade libvirt to 6.5 or later",
        )
    if version < _FALSE_DESTROY:
        traps.append(
            "'virsh destroy' may report success while QEMU hangs in the kernel (vmguard waits for its real end)"
        )
    if version < _DATA_STORE:
        traps.append("external data files are not in the domain XML (vmguard reads them from the image)")
    return ok("libvirt.version", "libvirt", f"{name}" + "".join(f"; known: {trap}" for trap in traps))


def _windows(libvirt: LibvirtFacts) -> list[Finding]:
    found = [
        fail(
            "libvirt.windows",
            "libvirt",
            f"{setting} is off, but {who}",
            f"set {setting}: auto in /etc/vmguard/vmguard.yaml",
        )
        for setting, who in libvirt.closed_windows
    ]
    return found or [
        ok("libvirt.windows", "libvirt", "the bytes that QEMU and libvirt lock themselves are left to them")
    ]


def judge_proxmox(proxmox: ProxmoxFacts) -> list[Finding]:
    """Judge Proxmox VE and its VMs; no findings where there is no Proxmox VE."""
    if proxmox.version is None:
        return []
    at, name = "Proxmox VE", ".".join(map(str, proxmox.version))
    if proxmox.version < _OLDEST_PVE:
        version = warn("proxmox.version", at, f"{name} is out of support", "upgrade to Proxmox VE 8 or 9")
    else:
        text = f"{name}; its QEMU takes no image locks, so vmguard's are the only ones"
        version = ok("proxmox.version", at, text)
    return [version, *_hookscripts(at, proxmox)]


def _hookscripts(at: str, proxmox: ProxmoxFacts) -> list[Finding]:
    enable = "vmguard enable proxmox"
    if proxmox.problem:
        return [
            warn("proxmox.hook", at, f"its VMs could not be read: {proxmox.problem}", "systemctl status pve-cluster")
        ]
    if proxmox.script_problem and proxmox.hooked:
        text = f"{proxmox.script_problem}, so no VM that names it can start"
        return [fail("proxmox.hook", at, text, f"{enable} --hook-only")]
    found = [
        fail(
            "proxmox.hook",
            f"VM {vmid}",
            f"{name} has not vmguard's hookscript: it starts unguarded",
            f"{enable} --vmid {vmid}",
        )
        for vmid, name in proxmox.unhooked
    ]
    return found or [ok("proxmox.hook", at, f"all {proxmox.hooked} VMs of this node have vmguard's hookscript")]


# -- one VM ---------------------------------------------------------------------------------------------------------


def judge_vm(vm: VmFacts) -> list[Finding]:
    """Judge the disks of the VM that was asked for."""
    at = f"VM {vm.name}"
    found = [finding for disk in vm.disks for finding in [_disk(at, disk)] if finding is not None]
    found += [
        warn(
            "disk.guardable",
            at,
            f"{what} is not guarded: {why}",
            "move it to a file on NFSv4.2, or accept it in policy",
        )
        for what, why in vm.unguarded
    ]
    if vm.disks and not vm.unguarded:
        found.append(ok("disk.guardable", at, f"all of its {len(vm.disks)} files can be locked"))
    return found


def _disk(at: str, disk: DiskFacts) -> Finding | None:
    if disk.problem:
        return fail("disk.paths", at, f"{disk.path}: {disk.problem}", "vmguard plan --name VM")
    if disk.links > 1:
        text = f"{disk.path} has {disk.links} names (hard links): another VM may have it under another one"
        return warn("disk.paths", at, text, f"find {disk.real.rpartition('/')[0] or '/'} -samefile {disk.real}")
    if disk.real != disk.path:
        return ok("disk.paths", at, f"{disk.path} is {disk.real}, which is what is locked")
    return ok("disk.paths", at, f"{disk.path} has one name")
