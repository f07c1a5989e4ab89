"""Looks at vmguard itself, and at libvirt. Nothing here touches a share."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator, Sequence

import vmguard
from vmguard import config as configuration
from vmguard.adapters.libvirt import hook_file as libvirt_hook
from vmguard.adapters.libvirt import host as libvirt_host
from vmguard.adapters.linux import programs
from vmguard.config import Config
from vmguard.core.reports import health as words
from vmguard.doctor import look_notify
from vmguard.doctor.facts import GuardFacts, LibvirtFacts, UnitFacts
from vmguard.errors import DaemonError, WireError
from vmguard.query import host_state
from vmguard.query.answers import HealthAnswer, Known, VmAnswer
from vmguard.query.ask_daemon import AdoptRequest, DaemonQuery
from vmguard.query.wording import stance

_SYSTEMCTL_TIMEOUT_S = 5.0
_UNITS = ("vmguard.socket", "vmguard.service", "vmguard-metrics.service", "vmguard-notify.service")
_UNIT_PROPERTIES = "Id,ActiveState,SubState,Result,UnitFileState,ReadWritePaths"
_TROUBLE = ("frozen", "fencing", "conflict")
_ASSIGNMENT = re.compile(rb"^(VMGUARD_PYTHON|VMGUARD_LIB)=(.*)$", re.M)


def look(config: Config, config_paths: list[str] | None, seconds: float) -> GuardFacts:
    """Look at vmguard itself; the daemon has ``seconds`` for each answer."""
    problems = _config_problems(config_paths)
    try:
        with DaemonQuery(config.daemon.run_dir, seconds) as daemon:
            version = daemon.ping().version
            health = daemon.health()
            vms = daemon.guarded_vms()
            others = daemon.adopt(AdoptRequest(everything=True, dry_run=True, seconds=seconds))
    except (DaemonError, WireError) as problem:
        return GuardFacts(
            daemon=problem.message,
            own_version=vmguard.__version__,
            lame=_lame(config),
            enabled=_enabled(),
            units=look_units(),
            config_problems=problems,
            targets=len(config.targets),
            untold=look_notify.look(config),
        )
    return GuardFacts(
        version=version,
        own_version=vmguard.__version__,
        disarmed=health.disarmed,
        descriptors=health.descriptors,
        lame=_lame(config),
        enabled=_enabled(),
        units=look_units(),
        config_problems=problems,
        targets=len(config.targets),
        untold=look_notify.look(config),
        unguarded=tuple(answer.vm.name for answer in others if answer.result == "would-adopt"),
        weaker=tuple((vm.name, why) for vm in vms for why in [_weaker(vm)] if why),
        troubled=tuple(_troubled(vms, health)),
    )


def _troubled(vms: Sequence[VmAnswer], health: HealthAnswer) -> Iterator[tuple[str, str, str]]:
    """Yield the VMs that are frozen, fenced or in conflict, with their health line and what to do now."""
    for vm in vms:
        if stance(vm) in _TROUBLE:
            known = Known([vm], HealthAnswer(mounts=health.mounts))
            line = words.health(host_state.of(known), datetime.datetime.now(datetime.UTC))
            yield vm.name, line.headline, line.do_now


def _weaker(vm: VmAnswer) -> str:
    """Say why a VM's guard is weaker than it should be; empty when it is not."""
    if stance(vm) in _TROUBLE:
        return ""
    return next((f"{file.path}: {file.unpinned_reason}" for file in vm.files if file.unpinned_reason), "")


def _lame(config: Config) -> tuple[str, ...]:
    """Return the settings that let a VM write to a disk whose lock it has lost."""
    found = [] if not config.watch.log_only else ["watch.log_only: yes"]
    found += [f"watch.{key}: ignore" for key in ("on_at_risk", "on_lost") if getattr(config.watch, key) == "ignore"]
    found += ["hook.daemon_absent: allow"] if config.hook.daemon_absent == "allow" else []
    for name, entry in config.vms.items():
        found += [f"vms.{name}.{key}: {value}" for key, value in entry.items() if value == "ignore"]
        found += [f"vms.{name}.log_only: yes"] if entry.get("log_only") is True else []
    return tuple(found)


def _config_problems(paths: list[str] | None) -> tuple[str, ...]:
    try:
        configuration.load(paths)
    except configuration.BadConfig as bad:
        return tuple(str(problem) for problem in bad.problems)
    return ()


def _enabled() -> bool | None:
    """Return whether systemd starts the daemon at boot; None where there is no systemd."""
    if not os.path.isdir("/run/systemd/system"):
        return None
    try:
        done = programs.run(["systemctl", "is-enabled", "vmguard.socket"], _SYSTEMCTL_TIMEOUT_S)
    except OSError:
        return None
    return done.text.strip() in ("enabled", "enabled-runtime", "static")


def look_units() -> tuple[UnitFacts, ...] | None:
    """Look at our units; None where there is no systemd."""
    if not os.path.isdir("/run/systemd/system"):
        return None
    try:
        done = programs.run(["systemctl", "show", f"--property={_UNIT_PROPERTIES}", *_UNITS], _SYSTEMCTL_TIMEOUT_S)
    except OSError:
        return None
    return tuple(unit_of(block) for block in done.text.split("\n\n") if block.strip())


def unit_of(shown: str) -> UnitFacts:
    """Read what ``systemctl show`` says of one unit."""
    said = {name: value for name, _, value in (line.partition("=") for line in shown.splitlines())}
    failed = said.get("ActiveState") == "failed" or said.get("SubState") == "auto-restart"
    is_wanted = said.get("ActiveState") != "inactive" or said.get("UnitFileState", "").startswith("enabled")
    needed = [path.lstrip("+") for path in said.get("ReadWritePaths", "").split() if not path.startswith("-")]
    missing = tuple(path for path in needed if is_wanted and not os.path.isdir(path))
    return UnitFacts(said.get("Id", "?"), said.get("Result", "failed") if failed else "", missing)


# -- libvirt --------------------------------------------------------------------------------------------------------


def look_libvirt(config: Config, prove: bool, seconds: float) -> LibvirtFacts:
    """Look at libvirt and our hook; with ``prove`` have libvirt call it, within ``seconds``."""
    version = libvirt_hook.version()
    if version is None:
        return LibvirtFacts()
    hooks = tuple(
        (path, os.access(path, os.X_OK), _missing(path)) for path in libvirt_hook.installed(config.libvirt.hooks_dir)
    )
    running = bool(libvirt_hook.running())
    proof = libvirt_hook.prove(seconds) if prove and running and hooks else None
    return LibvirtFacts(
        version=version,
        hooks=hooks,
        proof=proof.answer if proof is not None else "",
        proof_words=proof.words if proof is not None else "it was not tried",
        running=running,
        closed_windows=_closed_windows(config),
    )


def interpreters(config: Config) -> list[str]:
    """Return the programs that libvirt's hooks of ours run, by their paths without links."""
    named = (_named(path)[0] for path in libvirt_hook.installed(config.libvirt.hooks_dir))
    return [os.path.realpath(path) for path in named if path]


def _named(hook: str) -> tuple[str, str]:
    """Return the interpreter and the folder of vmguard that a hook of ours names, empty where it does not."""
    named = {name: os.fsdecode(value) for name, value in _ASSIGNMENT.findall(libvirt_hook.content(hook))}
    return named.get(b"VMGUARD_PYTHON", ""), named.get(b"VMGUARD_LIB", "")


def _missing(hook: str) -> str:
    """Return what a hook of ours names and what is missing: vmguard was removed, or Python replaced. Else empty."""
    python, library = _named(hook)
    if not os.access(python, os.X_OK):
        return python or "no interpreter"
    return "" if os.path.exists(os.path.join(library, "vmguard/hook/libvirt.py")) else f"{library}/vmguard"


def _closed_windows(config: Config) -> tuple[tuple[str, str], ...]:
    windows, found = config.windows, []
    if windows.qemu == "off":
        found.append(("windows.qemu", "libvirt's QEMU locks bytes 100-299 of each image"))
    if windows.libvirt == "off":
        found.append(("windows.libvirt", "libvirt locks byte 1 while it changes a disk's owner"))
    if windows.virtlockd == "off" and libvirt_host.uses_virtlockd():
        found.append(("windows.virtlockd", "this host's libvirt uses virtlockd, which locks byte 0"))
    return tuple(found)
