"""The audit of a cluster: each finding, and each cluster in which there must be none. Pure, and from a node's files."""

from __future__ import annotations

import pytest

from vmguard.core.reports.pve_audit import HOOK, ClusterView, LastClaim, MountUnder, audit
from vmguard.core.reports.status import Status
from vmguard.core.sources.pve_config import parse_config
from vmguard.core.sources.pve_storage import parse_storages

NAS = "nfs: nas\n\tserver 10.0.0.1\n\texport /vm\n"
DISK = "scsi0: nas:100/vm-100-disk-0.raw\n"
ENROLLED = f"hookscript: {HOOK}\n"


def view(storages: str = NAS, **vms: str) -> ClusterView:
    """VMs by name: v100 is VM 100 on node1, w101 is VM 101 on node2."""
    made = ClusterView(["node1", "node2"], parse_storages(storages.encode()), here="node1")
    for name, text in vms.items():
        node = "node1" if name[0] == "v" else "node2"
        made.vms.append((name[1:], node, parse_config(text.encode(), name[1:])))
    return made


def kinds(made: ClusterView) -> list[str]:
    return [finding.kind for finding in audit(made)]


def mounted(**options: MountUnder) -> dict[str, MountUnder]:
    return {f"/mnt/pve/{name}": mount_under for name, mount_under in options.items()}


def on(made: ClusterView, **grounds: MountUnder) -> ClusterView:
    """The same, seen from a node that has these mounted."""
    table = mounted(**grounds)
    made.mount_under = lambda path: next(
        (found for point, found in table.items() if f"{path}/".startswith(f"{point}/")), None
    )
    return made


def nfs(name: str, source: str = "10.0.0.1:/vm", **more: object) -> MountUnder:
    return MountUnder(f"/mnt/pve/{name}", True, source, **more)  # type: ignore[arg-type]


# -- pure ------------------------------------------------------------------------------------------------------------


def test_a_cluster_in_order_has_no_findings() -> None:
    made = view(v100=ENROLLED + DISK, w101="scsi0: local:101/vm-101-disk-0.raw\n", v102="ide2: none,media=cdrom\n")
    assert kinds(made) == []
    assert kinds(on(made, nas=nfs("nas"))) == []


def test_a_vm_whose_starts_are_not_guarded() -> None:
    (found,) = audit(view(w100="hookscript: local:snippets/own.pl\n" + DISK))
    assert (found.kind, found.status, found.vmid, found.node) == ("not-enrolled", Status.WARNING, "100", "node2")
    assert "vmguard enable proxmox --vmid 100" in found.todo
    assert kinds(view(v100=DISK.replace(".raw", ".raw,ro=1"))) == []


def test_a_folder_on_an_nfs_mount_counts_by_what_is_mounted() -> None:
    made = view("dir: nas\n\tpath /mnt/pve/nas\n", v100=DISK)
    assert kinds(made) == []
    assert kinds(on(made, nas=nfs("nas"))) == ["not-enrolled"]
    assert kinds(on(made, nas=MountUnder("/mnt/pve/nas", False, "/dev/sda1"))) == []
    absolute = view("", v100="scsi0: /mnt/pve/nas/x.raw\n")
    assert kinds(on(absolute, nas=nfs("nas"))) == ["not-enrolled"]


@pytest.mark.parametrize(
    ("storages", "other"),
    [
        (NAS, "scsi0: nas:100/vm-100-disk-0.raw\n"),
        (NAS, "scsi0: nas:100/vm-100-disk-0.raw,ro=1\n"),
        (NAS + "\nnfs: again\n\tserver 10.0.0.1\n\texport /vm\n", "scsi0: again:100/vm-100-disk-0.raw\n"),
        (
            NAS + "\nnfs: inner\n\tserver 10.0.0.1\n\texport /vm/images\n\tcontent-dirs images=/\n",
            "scsi0: inner:100/vm-100-disk-0.raw\n",
        ),
    ],
)
def test_one_file_in_two_vms_by_whatever_name(storages: str, other: str) -> None:
    found = audit(view(storages, v100=ENROLLED + DISK, w101=ENROLLED + other))
    (shared,) = [one for one in found if one.kind == "shared-file"]
    assert shared.status is Status.CRITICAL
    assert "VM 100 on node1" in shared.text
    assert "VM 101 on node2" in shared.text


def test_what_is_not_shared() -> None:
    both_read = DISK.replace(".raw", ".raw,ro=1")
    assert kinds(view(v100=both_read, w101=both_read)) == []
    local = "scsi0: local:100/a.raw\n"
    assert kinds(view(v100=local, w101=local)) == []  # each node has its own
    assert kinds(view(v100=local, v101=local)) == ["shared-file"]
    twice = view(v100=ENROLLED + DISK + "unused0: nas:100/vm-100-disk-0.raw\n")
    assert kinds(twice) == []


def test_one_inode_under_two_names() -> None:
    made = view(v100=ENROLLED + DISK, v101=ENROLLED + "scsi0: nas:101/hard-link.raw\n")
    paths = [f"/mnt/pve/nas/images/{name}" for name in ("100/vm-100-disk-0.raw", "101/hard-link.raw")]
    made.inodes = dict.fromkeys(paths, (7, 8))
    assert kinds(made) == ["shared-file"]


@pytest.mark.parametrize(
    ("other", "how"),
    [
        ("nfs: two\n\tserver 10.0.0.1\n\texport /vm/\n", "are the same place"),
        ("nfs: two\n\tserver 10.0.0.1\n\texport /vm/deep\n", "lie one inside the other"),
        ("dir: two\n\tpath /mnt/pve/nas/sub\n", "lie one inside the other"),
        ("nfs: two\n\tserver nas.example\n\texport /vm\n", "are the same place"),
        ("nfs: two\n\tserver 10.0.0.1\n\texport /vm2\n", ""),
        ("dir: two\n\tpath /mnt/pve/nas2\n", ""),
    ],
)
def test_storages_that_are_one_place(other: str, how: str) -> None:
    made = on(view(f"{NAS}\n{other}"), nas=nfs("nas"))
    if "nas.example" in other:  # two names of one server: only the share itself can tell
        assert kinds(made) == []
        made.inodes = {"/mnt/pve/nas": (5, 2), "/mnt/pve/two": (5, 2)}
    found = [finding.text for finding in audit(made) if finding.kind == "aliased"]
    assert len(found) == (1 if how else 0)
    assert all(how in text for text in found)


def test_folders_of_different_nodes_are_no_aliases() -> None:
    two = "dir: {}\n\tpath /data\n\tnodes {}\n"
    assert kinds(view(two.format("aa", "node1") + "\n" + two.format("bb", "node2"))) == []
    assert kinds(view(two.format("aa", "node1") + "\n" + two.format("bb", "node1"))) == ["aliased"]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ("vers=3", Status.CRITICAL),
        ("nfsvers=3,soft", Status.CRITICAL),
        ("nolock", Status.CRITICAL),
        ("soft", Status.WARNING),
        ("vers=4.2,hard", None),
    ],
)
def test_options_under_which_locks_prove_nothing(options: str, status: Status | None) -> None:
    found = audit(view(f"{NAS}\toptions {options}\n"))
    assert [finding.status for finding in found] == ([status] if status else [])


def test_what_is_mounted_counts_more_than_what_is_configured() -> None:
    made = view(f"{NAS}\toptions vers=4.2\n")
    (found,) = audit(
        on(made, nas=nfs("nas", unsafe="/mnt/pve/nas is mounted with NFSv3: a lost lock is never noticed"))
    )
    assert (found.kind, found.status) == ("unsafe-mount", Status.CRITICAL)
    (found,) = audit(on(made, nas=nfs("nas", soft=True)))
    assert (found.kind, found.status) == ("unsafe-mount", Status.WARNING)
    assert kinds(on(view(f"{NAS}\toptions vers=3\n"), nas=nfs("nas"))) == []


def test_a_host_of_another_cluster_has_claimed_there() -> None:
    made = view()
    made.records = [
        LastClaim("nas", "/x/a", "node2.example", "web", "2026-01-01T00:00:00Z", ""),
        LastClaim("nas", "/x/b", "stranger", "db", "2026-01-02T00:00:00Z", ""),
        LastClaim("nas", "/x/c", "stranger", "old", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
    ]
    (found,) = audit(made)
    assert (found.kind, found.storage) == ("foreign", "nas")
    assert "stranger, which is no node of this cluster: 2 disks, 1 of them not released; last VM 'db'" in found.text


def test_snapshots_that_change_the_guard() -> None:
    (taken_off,) = audit(view(v100=ENROLLED + DISK + f"\n[old]\n{DISK}\n[new]\n{ENROLLED}{DISK}"))
    assert taken_off.kind == "snapshot"
    assert "snapshot 'old' takes the guard off" in taken_off.text
    (back,) = audit(view(v100=f"scsi0: local:100/a.raw\n\n[one]\n{ENROLLED}"))
    assert "snapshot 'one' brings vmguard's hookscript back" in back.text


def test_the_hookscripts_that_vms_had_before() -> None:
    own = ("local:snippets/own.pl", "/var/lib/vz/snippets/own.pl")
    made = view(v100=ENROLLED + DISK)
    made.chained = {"100": own}
    assert kinds(made) == []
    made.script_problem = lambda path: "does not exist"
    (found,) = audit(made)
    assert (found.kind, found.status) == ("chain", Status.CRITICAL)
    made = view(v100="")
    made.chained = {"100": own, "200": own}
    assert sorted(finding.vmid for finding in audit(made)) == ["100", "200"]
    base = ENROLLED + "template: 1\nscsi0: nas:100/base-100-disk-0.qcow2\n"
    made = view(v100=base, v101=ENROLLED + "scsi0: nas:100/base-100-disk-0.qcow2/101/vm-101-disk-0.qcow2\n")
    made.chained = {"100": own}
    (found,) = audit(made)
    assert "VM 101 is a clone of 100" in found.text


def test_an_enrolled_vm_on_a_node_without_the_hookscript() -> None:
    made = view(v100=ENROLLED + DISK, w101=ENROLLED + DISK.replace("100", "101"))
    made.hook_problem = "/var/lib/vz/snippets/vmguard does not exist"
    (found,) = audit(made)
    assert (found.kind, found.status, found.vmid) == ("no-hook", Status.CRITICAL, "100")


def test_drives_that_args_hide_and_vms_that_cannot_start() -> None:
    found = audit(view(v100="args: -drive file=/x.raw\n", v101="scsi0: gone:101/a.raw\n"))
    assert [(one.kind, one.status) for one in found] == [
        ("unknown", Status.UNKNOWN),
        ("hidden-drive", Status.WARNING),
    ]


# -- from a node's files ---------------------------------------------------------------------------------------------
