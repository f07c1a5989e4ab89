"""Puts together what guards VMs that no hook announced."""

from __future__ import annotations

import os
from collections.abc import Callable

from vmguard.config.choices import LocalFiles
from vmguard.config.settings import Config
from vmguard.daemon.adopt.adopter import Adopter
from vmguard.daemon.adopt.unclaimed_qemu import Census
from vmguard.daemon.api.server import Service
from vmguard.daemon.claim.lifecycle import Keeper
from vmguard.daemon.claim.migration_target import Incoming
from vmguard.daemon.fence.conflicts import Conflicts
from vmguard.daemon.owner_records.mark_released import Records
from vmguard.daemon.owner_records.write_late import Claims
from vmguard.daemon.pin.pinner import Pinner
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm
from vmguard.daemon.registry.store import Registry
from vmguard.daemon.runtime.command_lines import CommandLines
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.runtime.storage_threads import Workers
from vmguard.daemon.scan.libvirt_events import Hints


def furnish(
    loop: Loop,
    registry: Registry,
    keeper: Keeper,
    pinner: Pinner,
    workers: Workers,
    command_lines: CommandLines,
    records: Records,
    service: Service,
    config: Callable[[], Config],
    io_error: Callable[[GuardedVm], None],
) -> None:
    """Wire the census, the conflicts, the owner records and ``adopt`` into a daemon, and start looking."""
    conflicts = Conflicts(loop, registry, pinner, lambda: config().unguarded)
    claims = Claims(loop, registry, records)
    census = Census(loop, registry, keeper, pinner, command_lines, lambda: config().unguarded)

    incoming = Incoming(loop, workers, registry, pinner, conflicts, command_lines, lambda: config().migration)
    keeper.on_running = incoming.follow
    service.incoming = incoming

    def pinned(vm: GuardedVm, file: GuardedFile) -> None:
        claims.pinned(vm, file)
        incoming.pinned(vm, file)
        conflicts.solved(vm)

    def local() -> bool:
        return config().policy.local_filesystems is LocalFiles.LOCK

    pinner.on_pinned = pinned
    service.adopt = Adopter(loop, registry, census, pinner, conflicts, local).adopt
    census.start()
    Hints(loop, registry, pinner.attend, io_error, lambda: has_libvirt(config())).start()


def has_libvirt(config: Config) -> bool:
    """Whether a libvirtd, or a virtqemud, can be listened to."""
    folder = os.path.dirname(config.libvirt.run_dir)
    sockets = ("libvirt-sock-ro", "virtqemud-sock-ro")
    return config.libvirt.events and any(os.path.exists(os.path.join(folder, name)) for name in sockets)
