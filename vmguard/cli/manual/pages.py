"""The manual pages vmguard(8), vmguard.yaml(5) and vmguard-hooks(7)."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator, Mapping

import vmguard
from vmguard import config
from vmguard.cli.manual import examples
from vmguard.cli.manual.roff import Page
from vmguard.cli.schemas import ERROR, SCHEMAS, drawn
from vmguard.doctor.catalogue import CHECKS
from vmguard.hook import operations
from vmguard.protocol.requests import REQUESTS, RequestType

#: shown in the last line of each page
DATE = "2026-11-21"
_NOT_OPTIONS = ("help",)
#: man indents a literal block, in a terminal of 80 columns
_USAGE_COLUMNS = 66
_SPACE = "\N{NO-BREAK SPACE}"
_DESCRIPTION = (
    "vmguard sees to it that at any instant at most one host can run, and write to the disks of, a virtual "
    "machine whose disks lie on an NFSv4 server. A hook takes an exclusive lock on each disk before the VM "
    "starts. The daemon moves these locks onto QEMU's own open files, proves all the while that the server still "
    "honours them, freezes VMs while nobody can know, and fences a VM whose lock is proven lost."
)
_MODES = (
    "Everybody who may open an image for reading can lock a byte of it, and then no VM starts on it: the refusal names "
    "the reader's program, pid and user, or says that it is on another host. So images are best 0600 or 0660, owned by "
    "root or by the user of QEMU. Everybody who may write to a folder can put another file, a link or a FIFO in the "
    "place of an image or of a record: folders of images are best 0750. vmguard opens nothing but regular files, and "
    "reads and writes no owner record that is a link or has a second name.",
    "A symbolic link that lies on a share, and the header of an image (its backing file, its data file), may lead to "
    "that share, to other NFSv4 shares, and into the folder of the image; storage.trusted_folders in vmguard.yaml(5) "
    "allows more. Links on this host's own file systems may lead anywhere. What the VM's own configuration names is "
    "always taken for what its administrator wants.",
)
_FILES = {
    "/etc/vmguard/vmguard.yaml, /etc/vmguard/conf.d/*.yaml": "The configuration, see vmguard.yaml(5).",
    "/run/vmguard/vmguard.sock": "The daemon's socket, for root only.",
    "/run/vmguard-read.sock": "The socket for readers, the members of group vmguard (daemon.read_group).",
    "/run/vmguard/standby/": "Where processes wait to do the next start's claim (hook.standby).",
    "/var/lib/vmguard/notify/TARGET/": "What waits to be sent to a target of notify.targets.",
    "/run/vmguard/vms/": "What the daemon guards, for the daemon that follows it.",
    "FOLDER/.vmguard/INODE.owner": "Beside each disk: who has claimed it, and since when. Never the lock.",
    "/etc/libvirt/hooks/qemu.d/50-vmguard": "libvirt's hook, put there by vmguard enable libvirt.",
    "/etc/modprobe.d/vmguard-nfs.conf": "This host's NFS client id, made by vmguard doctor --fix identity.",
}
_ENVIRONMENT = {
    "NO_COLOR": "When set to anything, nothing is coloured.",
    "COLUMNS": "The width of the terminal, before what the terminal itself says.",
    "PATH, PYTHONPATH and all others": "Not believed by /usr/bin/vmguard, the daemon and the hooks, nor is the folder "
    "that you stand in. Programs are looked for in /usr/local/sbin, /usr/local/bin, /usr/sbin, /usr/bin, /sbin and "
    "/bin, and get a small environment of their own. A command that pip has made believes PYTHONPATH, and python3 -m "
    "vmguard runs what lies in the folder that you stand in: write python3 -I -m vmguard.",
}
_JOURNAL = {
    "VMGUARD_EVENT": "What happened, a word for programs: vm.freeze, vm.fence, lock.lost.",
    "VMGUARD_NAME, VMGUARD_UUID, VMGUARD_VM": "The VM that it is about; VMGUARD_VM is HYPERVISOR-ID.",
    "VMGUARD_MOUNT, VMGUARD_DISK, VMGUARD_VERDICT, VMGUARD_EVIDENCE": "What it is about, and on what it rests.",
}
_STATUS = {
    "0": "OK: all is well, or it was done.",
    "1": "WARNING: it works, and somebody should look.",
    "2": "CRITICAL: a disk is in danger, or a VM runs unguarded; also wrong usage.",
    "3": "UNKNOWN: it could not be found out or not be done.",
}
_LIBVIRT_CALL = "/etc/libvirt/hooks/qemu NAME OPERATION SUB-OPERATION EXTRA    (the domain XML on standard input)"
_PROXMOX_CALL = "SNIPPET VMID PHASE"


def vmguard_8(top: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """Return vmguard(8): every command with its own help text."""
    page = Page("vmguard", 8, vmguard.__version__, DATE, "guards the disks of VMs on NFSv4: one host at a time")
    page.section("synopsis")
    page.literal(_usage(top))
    page.section("description")
    page.paragraph(_DESCRIPTION)
    page.section("options")
    page.paragraph("Every command takes these, before or behind its name.")
    _arguments(page, top)
    page.section("commands")
    for name, parser in commands.items():
        _command(page, name, parser)
    page.section("the checks of vmguard doctor")
    page.paragraph("Each finding is OK, WARN or FAIL, and comes with a command that mends it.")
    for check, why in CHECKS.items():
        page.tagged(check, f"{why[0].upper()}{why[1:]}.")
    page.section("the modes of a share")
    for paragraph in _MODES:
        page.paragraph(paragraph)
    examples.add_to(page, examples.VMGUARD)
    page.section("exit status")
    page.paragraph(
        "That of monitoring plugins. check, status, who, doctor and audit exit with what they find; history and timing "
        "only tell, and exit with 0 on a host that is not well, too."
    )
    _list(page, _STATUS)
    page.section("json")
    page.paragraph(
        "With --json each command prints one document of this shape, null where there is nothing. Keys may be "
        "added in a later version; those that are here stay as long as schema is the same. A command that fails "
        "prints an error. The same shapes as JSON Schema files, one a command: /usr/share/vmguard/schemas."
    )
    for name, shape in {**SCHEMAS, "(an error)": ERROR}.items():
        page.subsection(name)
        page.literal(drawn(shape))
    page.section("files")
    _list(page, _FILES)
    page.section("environment")
    _list(page, _ENVIRONMENT)
    page.section("journal fields")
    page.paragraph(
        "Besides its text, each event of the watchdog carries fields, for journalctl VMGUARD_EVENT=vm.freeze."
    )
    _list(page, _JOURNAL)
    page.section("see also")
    page.paragraph("vmguard.yaml(5), vmguard-hooks(7), vmguard-security(7), nfs(5), exports(5), fcntl(2)")
    return page.text()


def _usage(parser: argparse.ArgumentParser) -> list[str]:
    """Return the usage in lines that fit a terminal, the later ones indented below the first word that varies."""
    words = _unbroken(parser.format_usage())
    lines = textwrap.wrap(words, _USAGE_COLUMNS, subsequent_indent="        ", break_on_hyphens=False)
    return [line.replace(_SPACE, " ") for line in lines]


def _unbroken(usage: str) -> str:
    """Return a usage in which no line may end within brackets."""
    line = " ".join(usage.split()).removeprefix("usage: ")
    return re.sub(r"\[[^\[\]]*\]", lambda found: found[0].replace(" ", _SPACE), line)


def _command(page: Page, name: str, parser: argparse.ArgumentParser) -> None:
    page.subsection(f"vmguard {name}")
    page.paragraph(parser.description or "")
    page.literal(_usage(parser))
    _arguments(page, parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                page.tagged(f"{name} {word}", str(below.description or ""))
                if any(item.dest not in _NOT_OPTIONS for item in below._actions):
                    page.literal(_usage(below))
                    _arguments(page, below)


def _arguments(page: Page, parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if action.dest in _NOT_OPTIONS or isinstance(action, argparse._SubParsersAction):
            continue
        help = action.help or ""
        choices = f" One of: {', '.join(map(str, action.choices))}." if action.choices and not action.metavar else ""
        page.tagged(_name(action), f"{help[:1].upper()}{help[1:]}.{choices}")


def _name(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return value
    takes = (
        ""
        if action.nargs == 0
        else f" {value if action.metavar or not action.choices else '|'.join(map(str, action.choices))}"
    )
    return ", ".join(action.option_strings) + takes


def _list(page: Page, entries: dict[str, str]) -> None:
    for tag, text in entries.items():
        page.tagged(tag, text)


def yaml_5() -> str:
    """Return vmguard.yaml(5): every row of the table of settings."""
    page = Page("vmguard.yaml", 5, vmguard.__version__, DATE, "the configuration of vmguard")
    page.section("synopsis")
    page.literal(["/etc/vmguard/vmguard.yaml", "/etc/vmguard/conf.d/*.yaml"])
    page.section("description")
    for paragraph in config.introduction().split("\n\n"):
        page.paragraph(paragraph)
    rows = list(config.settings())
    for section, help in config.sections().items():
        page.section(section)
        page.paragraph(help)
        for row in rows:
            if row.section == section:
                page.tagged(f"{section}.{row.key}", " ".join(_setting(row)))
    page.section("notify.targets")
    page.paragraph(config.targets_help())
    for key in config.target_keys().values():
        shown = f"Value: {key.kind.describe()}. Default: {key.kind.show(key.default)}."
        page.tagged(key.name, f"{key.help} {shown}" if key.key != "type" else f"{key.help} It must be given.")
    page.section("vms")
    page.paragraph(config.vms_help())
    page.literal(["vms:", "  web:", "    on_lost: freeze", "    after_fence: off"])
    page.section("servers")
    page.paragraph(config.SERVERS_HELP)
    page.literal(
        ["servers:", "  nas:", "    destination: vmguard-read@nas", "    release_destination: vmguard-release@nas"]
    )
    for row in config.server_settings().values():
        page.tagged(f"servers.NAME.{row.key}", " ".join(_setting(row)))
    examples.add_to(page, examples.YAML)
    page.section("see also")
    page.paragraph("vmguard(8), vmguard-hooks(7)")
    return page.text()


def _setting(row: config.Setting) -> Iterator[str]:
    yield row.help
    yield f"Value: {row.kind.describe()}. Default: {row.kind.show(row.default)}."
    if row.restart:
        yield "A change needs a restart of the daemon."


def hooks_7() -> str:
    """Return vmguard-hooks(7): when each hypervisor calls its hook, what it does, what its failure does."""
    page = Page(
        "vmguard-hooks", 7, vmguard.__version__, DATE, "what vmguard does when a hypervisor starts or stops a VM"
    )
    page.section("description")
    page.paragraph(
        "Each hook is a small program that the hypervisor calls. It uses Python's standard library alone, is "
        "bounded in time, and refuses in words: which disk, who has it, since when, is that host alive, what to "
        "do now."
    )
    page.paragraph(
        "CLAIM means: every disk of the VM gets its lock, all or none, or the start is refused. INFORM means: the "
        "daemon is told, as a hint and never as a proof. NOTHING means: the hook leaves at once."
    )
    for title, call, table in (
        ("libvirt", _LIBVIRT_CALL, operations.LIBVIRT),
        ("proxmox ve", _PROXMOX_CALL, operations.PROXMOX),
    ):
        page.section(title)
        page.literal([call])
        for name, row in table.items():
            fails = (
                "Its failure refuses the start." if row.on_failure == operations.REFUSE else "Its failure does nothing."
            )
            page.tagged(name, f"{row.action.upper()}: {row.why}. {fails}")
    page.section("the proof")
    page.paragraph(
        f"libvirt's hook refuses every VM whose name begins with {PROOF}: vmguard enable libvirt and vmguard "
        "doctor ask libvirt to start one, in order to see whether it calls the hook and obeys it. Its only disk "
        "does not exist, so nothing runs if it does not."
    )
    examples.add_to(page, examples.HOOKS)
    page.section("the daemon's socket")
    page.paragraph(
        "Hooks and commands send requests to the daemon over /run/vmguard/vmguard.sock (SOCK_SEQPACKET), each a JSON "
        'object with "v": 1 and "op", its name. Keys in brackets may be left out. Only root, or the user that the '
        "daemon runs as, is answered. Over /run/vmguard-read.sock the members of daemon.read_group may send what is "
        "marked: it changes nothing, they get no descriptors (a list comes in parts), and none of theirs is taken."
    )
    for request in REQUESTS.values():
        page.tagged(request.name, " ".join(_request(request)))
    page.section("see also")
    page.paragraph("vmguard(8), vmguard.yaml(5)")
    return page.text()


def _request(row: RequestType) -> Iterator[str]:
    """Yield a request's row in sentences."""
    yield f"{row.description[0].upper()}{row.description[1:]}."
    yield f"Sent by: {row.sender}."
    if row.keys:
        keys = (f"{key.name}: {key.kind.words}" for key in row.keys)
        shown = (words if key.required else f"[{words}]" for key, words in zip(row.keys, keys, strict=True))
        yield f"Keys: {', '.join(shown)}."
    yield f"Answer: {', '.join([row.answer, *row.answer_keys])}."
    if row.reads:
        yield "Readers may send it."


#: as in vmguard/hook/libvirt.py, which belongs to the hot path and is not imported here
PROOF = "vmguard-proof-"
