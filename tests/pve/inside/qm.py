"""The command ``qm`` of the stand-in node: ``qm set``, and all else as node.py has it. Each rule names its source.

``qm set VMID [--hookscript VOLUME | --delete hookscript] [--digest SHA1]``
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time

sys.path.insert(0, os.path.abspath(f"{__file__}/../../../.."))
from tests.pve.inside import node


def check_hookscript(volume: str) -> None:
    """GuestHelpers.pm check_hookscript: a volume id, in snippets, there and executable; links are followed."""
    found = re.fullmatch(r"(\w[\w.-]*):(\w+)/([^/]+)", volume)
    if not found:
        raise node.Died(f"unable to parse volume ID '{volume}'")
    others = dict(item.split("=") for item in os.environ.get("PVE_STORES", "").split(",") if item)  # id=folder
    folders = {"local": node.SNIPPETS, **{name: f"{folder}/snippets" for name, folder in others.items()}}
    if found[1] not in folders:
        raise node.Died(f"storage '{found[1]}' does not exist")
    if found[2] != "snippets":
        raise node.Died(f"'{volume}' is not in the snippets directory")
    path = f"{folders[found[1]]}/{found[3]}"
    if not os.path.isfile(path):
        raise node.Died(f"script '{volume}' does not exist")
    if not os.access(path, os.X_OK):
        raise node.Died(f"script '{volume}' is not executable")


def set_options(vmid: str, words: list[str]) -> None:
    """API2/Qemu.pm update_vm_api: under the VM's flock; digest and lock are looked at in there; keys are written in
    alphabetical order (QemuServer.pm write_vm_config), sections behind."""
    options = dict(zip(words[::2], words[1::2], strict=True))
    unknown = options.keys() - {"--hookscript", "--delete", "--digest"}
    if unknown:
        raise node.Died(f"Unknown option: {unknown.pop()}")
    if "--hookscript" in options:
        check_hookscript(options["--hookscript"])
    path = node.config_path(vmid)
    if not os.path.exists(path):
        raise node.Died(f"Configuration file 'nodes/{node.NODE}/qemu-server/{vmid}.conf' does not exist")
    with node.VmLock(vmid, float(os.environ.get("PVE_LOCK_PATIENCE", "10"))):
        time.sleep(float(os.environ.get("QM_SLOW", "0")))
        with open(path, encoding="utf-8") as stream:
            raw = stream.read()
        if options.get("--digest", "") not in ("", hashlib.sha1(raw.encode()).hexdigest()):
            raise node.Died("detected modified configuration - file changed by other user? Try again.")
        main, section, rest = raw.partition("\n[")
        lines = {line.partition(":")[0]: line for line in main.splitlines() if line}
        if "lock" in lines:
            raise node.Died(f"VM is locked ({lines['lock'].partition(': ')[2]})")
        if "--hookscript" in options:
            lines["hookscript"] = f"hookscript: {options['--hookscript']}"
        lines.pop(options.get("--delete", ""), None)
        text = "".join(f"{lines[key]}\n" for key in sorted(lines)) + (section + rest if section else "")
        with open(f"{path}.tmp", "w", encoding="utf-8") as stream:
            stream.write(text)
        os.rename(f"{path}.tmp", path)
    print(f"update VM {vmid}: {' '.join(words)}")


def main() -> int:
    verb, vmid, *words = sys.argv[1:]
    if verb != "set":
        sys.argv = [sys.argv[0], verb, vmid]
        return node.main()
    try:
        set_options(vmid, words)
    except node.Died as problem:
        print(problem, file=sys.stderr)
        return 255
    return 0


if __name__ == "__main__":
    sys.exit(main())
