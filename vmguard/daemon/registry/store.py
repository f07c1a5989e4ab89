"""Keep the VMs that this host guards, mirrored in state files in /run/vmguard/vms that survive a crash."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Set

from vmguard.adapters.linux import statefile
from vmguard.adapters.linux.atomic_file import UNFINISHED
from vmguard.adapters.linux.proc import Key
from vmguard.core.words import file_name
from vmguard.daemon.registry.guarded_vm import GuardedVm

log = logging.getLogger("vmguard.registry")


class Registry:
    """All guarded VMs by id, mirrored in one state file each."""

    def __init__(self, run_dir: str) -> None:
        self._folder = os.path.join(run_dir, "vms")
        self._vms: dict[str, GuardedVm] = {}
        os.makedirs(self._folder, mode=0o700, exist_ok=True)

    def __iter__(self) -> Iterator[GuardedVm]:
        return iter(list(self._vms.values()))

    def __len__(self) -> int:
        return len(self._vms)

    @property
    def ids(self) -> Set[str]:
        return self._vms.keys()

    def get(self, vm_id: str) -> GuardedVm | None:
        return self._vms.get(vm_id)

    def about(self, vm_id: str) -> dict[str, str]:
        """Return what a report about a VM says besides its id."""
        vm = self.get(vm_id)
        return {"name": vm.name, "uuid": vm.uuid} if vm is not None else {}

    def holder_of(self, key: Key) -> list[GuardedVm]:
        """Return the VMs that a file belongs to."""
        return [vm for vm in self if any(file.key == key for file in vm.files)]

    def add(self, vm: GuardedVm) -> None:
        """Add a VM and persist its state. Raises OSError if it cannot be written; nothing is kept then."""
        statefile.write(self._path(vm), vm.as_json(), sync=False)  # locks and claims end with this boot anyway
        self._vms[vm.id] = vm

    def take_up(self, vm: GuardedVm) -> None:
        """Add a VM that is already running, even if its state cannot be written."""
        self._vms[vm.id] = vm
        self.save(vm)

    def save(self, vm: GuardedVm) -> None:
        """Persist the state of a VM. A full disk is logged, and the older state stays."""
        vm.changed = True
        try:
            statefile.write(self._path(vm), vm.as_json(), sync=False)
        except OSError as problem:
            log.error(
                "%s: its state cannot be written (%s); after a crash the daemon would resume from an older one",
                vm.title,
                problem,
            )

    def mark_all_changed(self) -> None:
        """Have the watchdog look at every VM again."""
        for vm in self:
            vm.changed = True

    def remove(self, vm: GuardedVm) -> None:
        self._vms.pop(vm.id, None)
        statefile.remove(self._path(vm))

    def load(self) -> list[GuardedVm]:
        """Read the state files of an earlier daemon; return its VMs.

        Unreadable files are logged and left in place for a person.
        """
        for name in sorted(os.listdir(self._folder)):
            if name.endswith(UNFINISHED):  # a daemon was killed while writing it; the old file is intact
                statefile.remove(os.path.join(self._folder, name))
            if not name.endswith(".json"):
                continue
            value = statefile.read(os.path.join(self._folder, name))
            if value is None:
                continue
            try:
                vm = GuardedVm.from_json(value)
            except (KeyError, TypeError, ValueError) as problem:
                log.error("state file %s is not understood (%s); going on without it", name, problem)
                continue
            self._vms[vm.id] = vm
        return list(self._vms.values())

    def _path(self, vm: GuardedVm) -> str:
        return os.path.join(self._folder, f"{file_name(vm.id)}.json")
