"""A VM's TPM on the stand-in node: a real swtpm, a second process that writes for the VM."""

from __future__ import annotations

import subprocess

RUN = "/var/run/qemu-server"


def start(vmid: str, state: str) -> list[str]:
    """QemuServer.pm start_swtpm: started in front of QEMU, ends by itself with QEMU's socket (--terminate). Returns
    QEMU's arguments (add_tpm_device)."""
    socket = f"{RUN}/{vmid}.swtpm"
    command = [
        *("swtpm", "socket", "--tpmstate", f"backend-uri=file://{state},mode=0600"),
        *("--ctrl", f"type=unixio,path={socket},mode=0600", "--pid", f"file={RUN}/{vmid}.swtpm.pid"),
        *("--terminate", "--daemon", "--tpm2"),
    ]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    chardev = ["-chardev", f"socket,id=tpmchar,path={socket}"]
    return [*chardev, "-tpmdev", "emulator,id=tpmdev,chardev=tpmchar", "-device", "tpm-tis,tpmdev=tpmdev"]
