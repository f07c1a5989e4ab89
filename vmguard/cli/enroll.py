"""``vmguard enable proxmox`` and ``vmguard disable proxmox``: which VMs ask vmguard before they start.

A VM has one hookscript. The one that it had before runs after ours in each phase; vmguard.cfg remembers it. It is
recorded BEFORE the VM's configuration changes and forgotten AFTER the configuration has changed back, so it survives
whatever happens in between. Each VM is changed entirely or not at all, and only by root on its own node.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vmguard.adapters.linux import mounts
from vmguard.adapters.proxmox import chained_hookscripts, qm, snippets
from vmguard.adapters.proxmox import host as proxmox_host
from vmguard.adapters.proxmox.chained_hookscripts import Script
from vmguard.adapters.proxmox.cluster_view import mount_finder, unusable
from vmguard.cli import hook_script, places
from vmguard.cli.output import Output
from vmguard.cli.steps import ALREADY, DONE, FAILED, UNSURE, WOULD, Steps, daemon_runs, put_to_use
from vmguard.config import load
from vmguard.config.problems import did_you_mean
from vmguard.core import PROXMOX
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.reports.pve_audit import HOOK, guarded_files
from vmguard.core.sources.pve_config import VmConfig, parse_config
from vmguard.core.sources.pve_plan import plan_vm
from vmguard.core.sources.pve_storage import Storages, parse_volume
from vmguard.errors import BadInput, VmguardError
from vmguard.query import ask_daemon
from vmguard.query.ask_daemon import AdoptRequest
from vmguard.query.lookup import unknown_to_cluster


@dataclass(frozen=True)
class _Vm:
    """A VM of the cluster, as its configuration is now."""

    vmid: str
    node: str
    config: VmConfig
    #: sha1 of its file, as Proxmox computes it: with it, ``qm set`` refuses if somebody else changed the file meanwhile
    digest: str

    @property
    def title(self) -> str:
        return f"VM {self.vmid} ('{self.config.name}')"

    @property
    def script(self) -> str:
        return self.config.options.get("hookscript", "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of Proxmox VE."""
    group = parser.add_argument_group("on Proxmox VE")
    group.add_argument("--vmid", action="append", default=[], metavar="N", help="this VM; may be repeated")
    group.add_argument("--storage", action="append", default=[], metavar="S", help="the VMs with a disk on it")
    group.add_argument("--all", action="store_true", help="the VMs with disks that several hosts may open")
    group.add_argument("--hook-only", action="store_true", help="only the hookscript on this node, no VM")


def chosen(args: argparse.Namespace) -> bool:
    """Return whether any option of Proxmox VE was given."""
    return bool(args.vmid or args.storage or args.all or args.hook_only)


def enable(args: argparse.Namespace, out: Output) -> int:
    """Install the hookscript and set it for the VMs that the options select; return the exit status."""
    config = load(args.config)
    steps = Steps("enable", PROXMOX, args.dry_run, out)
    cluster = _Cluster(config.proxmox.config_dir, places.timeout_of(args))
    vms = cluster.choose(args)
    daemon_runs(config.daemon.run_dir, steps, "with the hookscript set no VM could start")
    _install(config.proxmox.snippets_dir, cluster.storages, steps)
    for vm in vms:
        if vm.node == cluster.node:
            _attempt(vm, steps, _enroll, cluster)
    if args.adopt:
        _adopt(config.daemon.run_dir, [vm for vm in vms if vm.node == cluster.node], steps)
    _unreadable(cluster, steps)
    _elsewhere("enable", [vm for vm in vms if vm.node != cluster.node and vm.script != HOOK], steps)
    _other_nodes(cluster, steps)
    put_to_use(config.daemon.run_dir, args.dry_run)
    return steps.end()


def disable(args: argparse.Namespace, out: Output) -> int:
    """Give the VMs that the options select their own hookscripts back; return the exit status."""
    config = load(args.config)
    steps = Steps("disable", PROXMOX, args.dry_run, out)
    cluster = _Cluster(config.proxmox.config_dir, places.timeout_of(args))
    vms = cluster.choose(args, enrolled=True)
    for vm in vms:
        if vm.node == cluster.node:
            _attempt(vm, steps, _release, cluster)
    _unreadable(cluster, steps)
    _elsewhere("disable", [vm for vm in vms if vm.node != cluster.node], steps)
    if args.all:
        _forget_the_gone(cluster, steps)
    if args.all or args.hook_only:
        _uninstall(config.proxmox.snippets_dir, cluster, steps)
    return steps.end()


class _Cluster:
    """The cluster's files, as they are now."""

    def __init__(self, config_dir: str, seconds: float) -> None:
        """Read the files, which must answer within ``seconds``.

        Raises VmguardError when that fails, or this host is no node of the cluster.
        """
        self.dir = config_dir
        proxmox_host.require_answer(config_dir, seconds)
        self.node = proxmox_host.node_name()
        self.nodes = proxmox_host.nodes(config_dir)
        if self.node not in self.nodes:
            raise BadInput(f"{config_dir} does not know this host ({self.node})", "run this on a node of the cluster")
        self.storages = proxmox_host.read_storages(config_dir)
        self.owners = dict(proxmox_host.owners(config_dir))
        #: VMs whose configuration could not be read, and why
        self.unreadable: dict[str, str] = {}

    @property
    def chained(self) -> dict[str, Script]:
        return chained_hookscripts.read(self.dir)

    def vm(self, vmid: str) -> _Vm:
        """Read one VM. Raises VmguardError when there is none, or its configuration cannot be read."""
        node = self.owners.get(vmid)
        if node is None:
            raise unknown_to_cluster(vmid)
        data = proxmox_host.contents(proxmox_host.config_path(self.dir, vmid, node), f"VM {vmid}")
        return _Vm(vmid, node, parse_config(data, vmid), hashlib.sha1(data, usedforsecurity=False).hexdigest())

    def _everyone(self) -> Iterator[_Vm]:
        for vmid in self.owners:
            try:
                yield self.vm(vmid)
            except VmguardError as problem:  # destroyed just now, or an invalid file: go on with the others
                self.unreadable[vmid] = problem.message

    def choose(self, args: argparse.Namespace, enrolled: bool = False) -> list[_Vm]:
        """Return the VMs that the options select, on all nodes. Raises VmguardError before anything is changed."""
        if not chosen(args):
            raise BadInput("no VM given", "--all, --storage S or --vmid N; with --dry-run nothing is changed")
        for storage in args.storage:
            if storage not in self.storages.by_id:
                raise BadInput(f"there is no storage {storage!r}{did_you_mean(storage, self.storages.by_id)}")
        found = {vmid: self.vm(vmid) for vmid in args.vmid}
        if args.all or args.storage:
            found.update({vm.vmid: vm for vm in self._everyone() if self._is_meant(vm, args, enrolled)})
        return [found[vmid] for vmid in sorted(found, key=int)]

    def _is_meant(self, vm: _Vm, args: argparse.Namespace, enrolled: bool) -> bool:
        if enrolled and vm.script != HOOK and vm.vmid not in self.chained:
            return False
        if any(drive.file.partition(":")[0] in args.storage for drive in vm.config.drives.values()):
            return True
        return bool(args.all and (enrolled or _writes_on_shares(vm, self.storages)))


def _writes_on_shares(vm: _Vm, storages: Storages) -> bool:
    if vm.config.is_template:
        return True  # base of its clones: nobody may write to it while they run
    try:
        planned = plan_vm(vm.config, storages, vm.node)
    except VmguardError:
        return True  # it cannot start now; once it can, it must be guarded
    return any(mode == EXCLUSIVE for _, mode in guarded_files(planned, mount_finder()))


# -- this node ------------------------------------------------------------------------------------------------------


def _install(folder: str, storages: Storages, steps: Steps) -> None:
    """Install the hookscript where Proxmox looks for ``local:snippets/vmguard``. Raises VmguardError."""
    wanted = storages.by_id["local"].folder("snippets")
    if folder != wanted and "content-dirs" in storages.by_id["local"].options:
        raise BadInput(f"the snippets of storage 'local' are in {wanted}", f"set proxmox.snippets_dir to {wanted}")
    why = snippets.why_not_here(folder, mounts.mounts())
    if why:
        raise VmguardError(why, "keep the storage local on a disk of this node")
    path, text = snippets.place(folder), hook_script.text(PROXMOX)
    there = snippets.what_is_there(path)
    if there == snippets.FOREIGN:
        raise VmguardError(
            f"{path} is somebody else's, and is not touched", "rename it, and the VMs' hookscript with it"
        )
    if there == snippets.OURS and snippets.is_current(path, text):
        steps.add("hook", ALREADY, f"{path} is there and up to date")
        return
    verb = "replaced by this version's" if there == snippets.OURS else "installed"
    if steps.dry_run:
        steps.add("hook", WOULD, f"{path} would be {verb}")
        return
    snippets.install(path, text)
    steps.add("hook", DONE, f"{path} was {verb}")


def _uninstall(folder: str, cluster: _Cluster, steps: Steps) -> None:
    """Remove the hookscript if no configuration of the cluster names it: each of those VMs may migrate to this node."""
    path = snippets.place(folder)
    if snippets.what_is_there(path) != snippets.OURS:
        steps.add("hook", ALREADY, f"no hookscript of vmguard at {path}")
        return
    users = [vmid for vmid, node in cluster.owners.items() if _names_hook(cluster, vmid, node)]
    if users and not steps.dry_run:
        steps.add("hook", UNSURE, f"{path} stays: VM {', '.join(users)} (or a snapshot of it) still names it")
        return
    if steps.dry_run:
        steps.add("hook", WOULD, f"{path} would be removed, unless a VM of another node or a snapshot still names it")
        return
    snippets.remove(path)
    steps.add("hook", DONE, f"{path} was removed")


def _names_hook(cluster: _Cluster, vmid: str, node: str) -> bool:
    try:
        data = proxmox_host.contents(proxmox_host.config_path(cluster.dir, vmid, node), f"VM {vmid}")
    except VmguardError:
        return True  # unknown, so assume that it does
    return HOOK.encode() in data


# -- one VM ---------------------------------------------------------------------------------------------------------


def _attempt(vm: _Vm, steps: Steps, act: Callable[[_Vm, _Cluster, Steps], None], cluster: _Cluster) -> None:
    """Change one VM. A failure is a step of its own, and the other VMs are still processed."""
    try:
        act(vm, cluster, steps)
    except VmguardError as problem:
        hint = f" ({problem.hint})" if problem.hint else ""
        steps.add(f"vm {vm.vmid}", FAILED, f"{vm.title} is as it was: {problem.message}{hint}")


def _enroll(vm: _Vm, cluster: _Cluster, steps: Steps) -> None:
    step, known = f"vm {vm.vmid}", cluster.chained.get(vm.vmid)
    if vm.script == HOOK:
        steps.add(step, ALREADY, f"{vm.title} is enrolled" + (f", and runs {known.volume} too" if known else ""))
        return
    before = _script_of(vm, cluster.storages)
    also = f", and its own hookscript {before.volume} is run behind vmguard's" if before else ""
    if before and (why := unusable(before.path)):
        steps.add(step, UNSURE, f"{vm.title}: its own hookscript {before.path} {why}: it cannot start before and after")
    if steps.dry_run:
        steps.add(step, WOULD, f"{vm.title} would be enrolled{also}")
        return
    chained_hookscripts.change(
        cluster.dir, {vm.vmid: before}
    )  # also forgets the script of an earlier VM of this number
    try:
        qm.set_hookscript(vm.vmid, HOOK, vm.digest)
    except VmguardError:
        if cluster.vm(vm.vmid).script != HOOK:
            chained_hookscripts.change(cluster.dir, {vm.vmid: known})
            raise
    steps.add(step, DONE, f"{vm.title} is enrolled{also}; from its next start on")


def _script_of(vm: _Vm, storages: Storages) -> Script | None:
    """Return the hookscript that a VM already has, with its path as PVE::Storage::path. Raises VmguardError."""
    if not vm.script:
        return None
    storage, name = storages.of(vm.script, f"the hookscript of VM {vm.vmid}")
    volume = parse_volume(name, f"the hookscript of VM {vm.vmid}")
    return Script(vm.script, f"{storage.folder(volume.kind)}/{volume.name}")


def _release(vm: _Vm, cluster: _Cluster, steps: Steps) -> None:
    step, before = f"vm {vm.vmid}", cluster.chained.get(vm.vmid)
    if vm.script != HOOK and before is None:
        steps.add(step, ALREADY, f"{vm.title} is not enrolled")
        return
    back = f" and has its own hookscript {before.volume} back" if before else ""
    if steps.dry_run:
        steps.add(step, WOULD, f"{vm.title} would no longer be enrolled{back}")
        return
    if vm.script == HOOK:
        qm.set_hookscript(vm.vmid, before.volume if before else "", vm.digest)
    chained_hookscripts.change(cluster.dir, {vm.vmid: None})
    steps.add(step, DONE, f"{vm.title} is no longer enrolled{back}: its starts are UNGUARDED from now on")


def _forget_the_gone(cluster: _Cluster, steps: Steps) -> None:
    """Forget destroyed VMs: a new VM with the number of one must not get its hookscript."""
    gone = sorted(set(cluster.chained) - set(cluster.owners))
    if gone and steps.dry_run:
        steps.add("vmguard.cfg", WOULD, f"the hookscripts of VMs that are gone would be forgotten: {', '.join(gone)}")
    elif gone:
        chained_hookscripts.change(cluster.dir, dict.fromkeys(gone))
        steps.add("vmguard.cfg", DONE, f"the hookscripts of VMs that are gone were forgotten: {', '.join(gone)}")


def _adopt(run_dir: str, vms: list[_Vm], steps: Steps) -> None:
    """Adopt the VMs that run already, without a restart."""
    if not vms:
        return
    results = ask_daemon.adopt(run_dir, AdoptRequest(tuple(vm.vmid for vm in vms), dry_run=steps.dry_run))
    bad = [f"{one.vm.name}: {one.result}" for one in results if one.has_no_lock]
    told = f"{len(results)} of them run, " + ("; ".join(bad) if bad else "and are guarded")
    steps.add("adopt", WOULD if steps.dry_run else FAILED if bad else DONE, told)


# -- other nodes ----------------------------------------------------------------------------------------------------


def _unreadable(cluster: _Cluster, steps: Steps) -> None:
    for vmid, why in cluster.unreadable.items():
        steps.add(f"vm {vmid}", UNSURE, f"VM {vmid} was left out: {why}")


def _elsewhere(verb: str, vms: list[_Vm], steps: Steps) -> None:
    for node in sorted({vm.node for vm in vms}):
        theirs = [vm.vmid for vm in vms if vm.node == node]
        words = " ".join(f"--vmid {vmid}" for vmid in theirs)
        steps.add(f"node {node}", UNSURE, f"only {node} itself can do its VMs; there: vmguard {verb} proxmox {words}")


def _other_nodes(cluster: _Cluster, steps: Steps) -> None:
    others = [node for node in cluster.nodes if node != cluster.node]
    if others:
        text = "an enrolled VM starts only where the hookscript is; on each: vmguard enable proxmox --hook-only"
        steps.add("other nodes", UNSURE, f"{', '.join(others)}: {text}")
