"""Run Proxmox's own ``qm`` for the one thing that only root on the node may do: set a VM's hookscript.

The API refuses it to every token, even to root@pam's (API2/Qemu.pm: only root can set 'hookscript').
"""

from __future__ import annotations

from vmguard.adapters.linux import programs
from vmguard.errors import VmguardError

#: qm itself waits 10 s for the VM's lock
_TIMEOUT_S = 60.0
_HINTS = (
    ("got timeout", "a task has the VM (a backup, a migration, a start that waits); when it is over, do it again"),
    ("is locked", "a task has the VM; when it is over, do it again"),
    ("detected modified configuration", "somebody changed the VM at the same time; look, then do it again"),
    ("does not exist", "the hook must be there on this node first"),
    ("root", "run this as root, on the node itself"),
)


def set_hookscript(vmid: str, volume: str, digest: str) -> None:
    """Set a VM's hookscript, or take it away when ``volume`` is empty. Raises VmguardError, in qm's own words.

    ``digest``: of the configuration as it was read (sha1); qm refuses when it has changed since.
    """
    what = ["--hookscript", volume] if volume else ["--delete", "hookscript"]
    try:
        done = programs.run(["qm", "set", vmid, *what, "--digest", digest], _TIMEOUT_S)
    except FileNotFoundError:
        raise VmguardError("there is no qm here", "run this on a node of the cluster") from None
    except TimeoutError:
        raise VmguardError(
            f"qm set {vmid} did not end within {_TIMEOUT_S:.0f} s", "is /etc/pve there? ls /etc/pve"
        ) from None
    except OSError as problem:
        raise VmguardError(f"qm cannot be run: {problem.strerror}") from problem
    if done.status:
        lines = (done.err or done.out).decode(errors="replace").split("\n")
        words = next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {done.status}")
        hint = next((hint for sign, hint in _HINTS if sign in words), "")
        raise VmguardError(f"qm set {vmid}: {words}", hint)
