"""What the configuration means for the daemon's parts. It is read anew each time: a reload counts at once."""

from __future__ import annotations

import functools
import os
import pwd
from collections.abc import Callable

from vmguard.adapters import hypervisors
from vmguard.adapters.libvirt import host as libvirt_host
from vmguard.adapters.linux import clock
from vmguard.config.choices import LocalFiles
from vmguard.config.settings import Config
from vmguard.core.locks.plan import BLOCK, DIRECTORY, LOCAL, MISSING, NETWORK, OTHER_MOUNT
from vmguard.core.locks.ranges import LIBVIRT_RANGE, QEMU_RANGE, RESERVATION, VIRTLOCKD_RANGE, Range, held_ranges
from vmguard.core.notices.wanted import Wish
from vmguard.core.watchdog.policy import HostFence, Policy
from vmguard.core.watchdog.timing import Wishes
from vmguard.daemon.claim.lifecycle import Timing
from vmguard.daemon.owner_records.mark_released import RecordSettings, fields
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.report.notices import Wanted as NoticesWanted
from vmguard.daemon.report.notify_command import Wanted
from vmguard.daemon.watch.server_answers import ServerAnswers
from vmguard.protocol.messages import ClaimPolicy, ClaimSettings, HostIdentity, RecordOptions

#: the users that distributions have libvirt run swtpm as (swtpm_user in qemu.conf)
_SWTPM_USERS = ("swtpm", "tss")


class Settings:
    """The configuration, translated for each part."""

    def __init__(self, config: Callable[[], Config], servers: ServerAnswers | None = None) -> None:
        """``servers``: what the storage servers say of themselves; None: nobody asks them."""
        self.config = config
        self._notices: tuple[Config | None, NoticesWanted] = (None, NoticesWanted())
        self._servers = servers

    def timing(self) -> Timing:
        """Return how patient the daemon is with starts, and where hypervisors keep their pid files."""
        config = self.config()
        run_dirs = (config.libvirt.run_dir, config.proxmox.run_dir)
        return Timing(config.daemon.start_deadline, config.daemon.poll_interval, *run_dirs)

    def record(self) -> RecordSettings:
        """Return where owner records are written; the folder is empty when they are not."""
        config = self.config()
        record = config.owner_record
        return RecordSettings(record.directory if record.enabled else "", record.timeout, config.hosts.name)

    def wishes(self) -> Wishes:
        """Return the time spans that the admin wants for the watchdog."""
        watch = self.config().watch
        return Wishes(margin=watch.margin or None, probe=watch.probe or None, slow_round=watch.slow_round)

    def policy(self, vm: GuardedVm) -> Policy:
        """Return the admin's choices for a VM: those of its own entry in ``vms``, then those for all."""
        config = self.config()
        watch, unguarded = config.watch, config.unguarded
        own = {**config.vms.get(vm.name, {}), **config.vms.get(vm.uuid, {})}
        return Policy(
            on_at_risk=own.get("on_at_risk", watch.on_at_risk),
            on_lost=own.get("on_lost", watch.on_lost),
            on_conflict=own.get("on_conflict", unguarded.action),
            conflict_grace=own.get("conflict_grace", unguarded.fence_after) or None,
            after_fence=own.get("after_fence", watch.after_fence),
            host_fence=own.get("host_fence", watch.host_fence),
            log_only=own.get("log_only", watch.log_only),
            set_clock=own.get("set_clock", watch.set_clock),
        )

    def wants_host_fence(self) -> bool:
        """Return whether any VM may cost the host a reset by its watchdog."""
        config = self.config()
        wanted = [config.watch.host_fence, *(entry.get("host_fence") for entry in config.vms.values())]
        return HostFence.WATCHDOG in wanted

    def notify(self) -> Wanted:
        """Return the admin's command for events."""
        notify = self.config().notify
        return Wanted(notify.command, notify.timeout, notify.level)

    def notices(self) -> NoticesWanted:
        """Return who gets messages about events: made once for each configuration, as it is asked at each report."""
        config, (of, wanted) = self.config(), self._notices
        if of is not config:
            targets = config.notify_targets()
            wanted = NoticesWanted(
                config.notify.queue_dir,
                {name: Wish(target.level, target.events) for name, target in targets.items()},
                {name: target.as_json() for name, target in targets.items()},
            )
            self._notices = (config, wanted)
        return wanted

    def locks_local_files(self) -> bool:
        """Return whether files on this host's own file systems are guarded, too."""
        return self.config().policy.local_filesystems is LocalFiles.LOCK

    def qemu_users(self) -> frozenset[int]:
        """Return the users as which libvirt runs QEMU and swtpm; a VM may have another one of its own."""
        minute = int(clock.boottime() // 60)
        names = (self.config().libvirt.qemu_user, *_SWTPM_USERS)
        return frozenset(uid for name in names if (uid := _uid(name, minute)) is not None)

    def listens_to_libvirt(self) -> bool:
        """Return whether a libvirtd, or a virtqemud, can and shall be listened to."""
        config = self.config()
        folder = os.path.dirname(config.libvirt.run_dir)
        sockets = ("libvirt-sock-ro", "virtqemud-sock-ro")
        return config.libvirt.events and any(os.path.exists(os.path.join(folder, name)) for name in sockets)

    def claim(self, hypervisor: str, incoming: str | None) -> ClaimSettings:
        """Return what a claim must know. ``incoming``: the node that the VM migrates from; None: an ordinary start."""
        config = self.config()
        known = hypervisors.by_name(hypervisor)
        record = self.record()
        policy = config.policy
        by_kind = {
            BLOCK: str(policy.block_devices),
            NETWORK: str(policy.network_disks),
            OTHER_MOUNT: str(policy.other_mounts),
            MISSING: "allow",
            DIRECTORY: "allow",
            LOCAL: "allow",
        }
        return ClaimSettings(
            now=clock.wall(),
            wait=(config.proxmox.lock_wait or None) if known.hook_may_wait else config.hook.wait,
            mount_wait=config.proxmox.mount_wait,
            timeout=config.hook.timeout,
            excluded_ranges=self.windows(hypervisor),
            policy=ClaimPolicy(str(policy.unsafe_mounts), str(policy.local_filesystems), by_kind),
            record=RecordOptions(record.folder, record.timeout),
            identity=HostIdentity(**fields(record)),
            as_users=[] if known.runs_qemu_as_root else _user(config.libvirt.qemu_user),
            incoming=incoming,
            trusted_folders=list(config.storage.trusted_folders),
            server_waits=self._servers.waits() if self._servers is not None and known.hook_may_wait else {},
            server_words=self._servers.words() if self._servers is not None else "",
        )

    def windows(self, hypervisor: str) -> list[Range]:
        """Return the byte ranges that a claim leaves free for others on the same host."""
        windows, chosen = self.config().windows, []
        auto = hypervisors.by_name(hypervisor).takes_image_locks  # else nobody locks any byte of an image
        if windows.virtlockd == "on" or (windows.virtlockd == "auto" and auto and libvirt_host.uses_virtlockd()):
            chosen.append(VIRTLOCKD_RANGE)
        if windows.libvirt == "on" or (windows.libvirt == "auto" and auto):
            chosen.append(LIBVIRT_RANGE)
        if windows.qemu == "on" or (windows.qemu == "auto" and auto):
            chosen.append(QEMU_RANGE)
        else:
            chosen.append(RESERVATION)
        return chosen

    def pieces(self, hypervisor: str) -> list[Range]:
        """Return the byte ranges that a claim holds."""
        return held_ranges(self.windows(hypervisor))


@functools.lru_cache(maxsize=16)
def _uid(name: str, minute: int) -> int | None:
    """Return a user's number; None if there is none. Asked anew each minute: a package may have added the user."""
    found = _user(name)
    return found[0][0] if found else None


def _user(name: str) -> list[tuple[int, int]]:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return []
    return [(entry.pw_uid, entry.pw_gid)]
