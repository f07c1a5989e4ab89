"""Run a hookscript exactly as Proxmox does (pve-guest-common PVE/GuestHelpers.pm, exec_hookscript; pve-common
PVE/Cmd.pm, run): argv, environment, both pipes to their end, no timeout, errors matter at pre-start only."""

from __future__ import annotations

import os
import subprocess
import sys


class HookFailed(Exception):
    """``hookscript error for VMID on PHASE: ...``: the start is aborted."""


def exec_hookscript(
    path: str, vmid: str, phase: str, stop_on_error: bool = False, env: dict[str, str] | None = None
) -> str:
    """Run a hookscript; return what went to the task log. Raises HookFailed if ``stop_on_error``."""
    # GuestHelpers.pm, check_hookscript: the file must be there and executable, links are followed.
    if not path:
        return ""
    error, output = "", b""
    if not os.path.isfile(path):
        error = f"hookscript: '{path}' does not exist"
    elif not os.access(path, os.X_OK):
        error = f"hookscript: '{path}' is not executable"
    else:
        # Cmd.pm: LC_ALL=C is forced; stdin is a pipe at its end; stdout and stderr are read until EOF, then it waits.
        process = subprocess.Popen(
            [path, vmid, phase],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**(os.environ if env is None else env), "LC_ALL": "C", "LVM_SUPPRESS_FD_WARNINGS": "1"},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        while piece := os.read(process.stdout.fileno(), 4096):
            output += piece
            sys.stderr.buffer.write(piece)
            sys.stderr.flush()
        status = process.wait()
        process.stdout.close()
        if status:
            error = f"exit code {status}" if status > 0 else f"got signal {-status}"
    if error:
        text = f"hookscript error for {vmid} on {phase}: {error}"
        if stop_on_error:
            raise HookFailed(f"{text}\n{output.decode(errors='replace')}")
        print(f"WARN: {text}", file=sys.stderr)
    return output.decode(errors="replace")
