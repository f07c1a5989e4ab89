"""The section ``watch`` of the table of settings (vmguard/config/settings.py): the watchdog."""

# ruff: noqa: RUF009 - setting() is dataclasses.field() with that table's metadata

from __future__ import annotations

from dataclasses import dataclass

from vmguard.config.row import setting
from vmguard.config.values import AbsolutePath, Choice, Duration, YesNo
from vmguard.core.watchdog.policy import AfterFence, HostFence, OnAtRisk, OnLost


@dataclass(frozen=True)
class Watch:
    """The watchdog: its policy and its timing."""

    on_at_risk: OnAtRisk = setting(
        Choice(OnAtRisk.FREEZE, OnAtRisk.FENCE, OnAtRisk.IGNORE),
        OnAtRisk.FREEZE,
        "What happens to a VM when its server has not answered for nearly a lease, so that another host may soon get "
        "its locks. freeze stops it until the server answers and its locks are judged: a storage reboot of any length "
        "then costs no VM. fence kills it. ignore lets it run: two hosts may then write to one disk.",
    )
    on_lost: OnLost = setting(
        Choice(OnLost.FENCE, OnLost.FREEZE, OnLost.IGNORE),
        OnLost.FENCE,
        "What happens to a VM whose lock is proven to be lost. fence kills it; freeze leaves it stopped for you to "
        "look at; ignore lets it run into I/O errors.",
    )
    after_fence: AfterFence = setting(
        Choice(AfterFence.OFF, AfterFence.RESTART),
        AfterFence.OFF,
        "What happens after a fence: off leaves the VM off, restart starts it again through the hypervisor, as an "
        "ordinary start that must claim its disks: while another host has one of them it is refused. It is the cure "
        "for a storage that has forgotten locks which nobody else has taken.",
    )
    host_fence: HostFence = setting(
        Choice(HostFence.NONE, HostFence.WATCHDOG),
        HostFence.NONE,
        "What happens when a VM that has lost its lock cannot be proven dead, or its last writes to be through. none: "
        "an alarm. watchdog: an alarm, and the host is reset by its watchdog, with every VM on it.",
    )
    watchdog_device: str = setting(
        AbsolutePath(what="absolute path"),
        "/dev/watchdog",
        "The watchdog for host_fence. It is opened only in order to reset the host. On Proxmox VE: "
        "/run/watchdog-mux.sock.",
        restart=True,
    )
    log_only: bool = setting(
        YesNo(),
        False,
        "yes: everything is decided and reported, nothing is done to a VM.",
    )
    set_clock: bool = setting(
        YesNo(),
        False,
        "yes: after a thaw the guest's clock, which stood still, is set by this host's through the guest's agent "
        "(virsh domtime --now; VMs of libvirt only).",
    )
    margin: float = setting(
        Duration(0, 600),
        0.0,
        "How long before the end of the lease VMs are frozen. 0s: a fifth of the lease, at least 2 s.",
    )
    probe: float = setting(
        Duration(0, 600),
        0.0,
        "How often each mount's lease is confirmed by one small request. 0s: a tenth of the lease, at most 10 s.",
    )
    slow_round: float = setting(
        Duration(10, 86400),
        300.0,
        "Each lock is asked at least this often, also when nothing happens.",
    )
