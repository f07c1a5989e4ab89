"""The audit through the API: proxmoxer's real https client against a small server of our own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pve.api import SECRET, TOKEN, Api, Certificates
from tests.pve.place import Place
from tests.support.guard import REPOSITORY, Answer
from vmguard.adapters.proxmox import api as proxmox_api
from vmguard.core.sources.pve_config import parse_config
from vmguard.core.sources.pve_storage import parse_storages
from vmguard.errors import VmguardError

pytestmark = pytest.mark.process

NAS = {"storage": "nas", "type": "nfs", "server": "10.0.0.1", "export": "/vm", "content": "images", "shared": 1}
DISK = {"name": "web", "scsi0": "nas:100/vm-100-disk-0.raw,size=32G", "memory": "2048"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def api(certificates: Certificates) -> Iterator[Api]:
    with Api(certificates) as api:
        api.storages = [NAS, {"storage": "local", "type": "dir", "path": "/var/lib/vz", "content": "iso"}]
        api.vms = {"100": ("node1", DISK), "101": ("node2", {**DISK, "hookscript": "local:snippets/vmguard"})}
        yield api


class Remote(Place):
    """A machine that is no node; ``audit`` asks an API."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        super().__init__(folder)
        self.authority = certificates.authority
        self.secret = folder / "secret"
        self.secret.write_text(f"{SECRET}\n")

    def audit(self, api: Api, *words: str, ca: bool = True) -> Answer:
        by = ["--token", TOKEN, "--token-file", str(self.secret)]
        trust = ["--ca-file", str(self.authority)] if ca else []
        return self.vmguard("audit", "--api", api.address, *by, *trust, *words)


@pytest.fixture
def remote(tmp_path: Path, certificates: Certificates) -> Remote:
    return Remote(tmp_path, certificates)


def test_the_whole_cluster_from_outside(remote: Remote, api: Api) -> None:
    answer = remote.audit(api)
    assert answer.status == 2, answer
    assert "one file, several VMs: VM 100 on node1" in answer.out
    assert "VM 100 ('web') on node1 writes to /mnt/pve/nas/images/100/vm-100-disk-0.raw" in answer.out
    assert "2 VMs on 2 nodes, 1 enrolled, 2 findings" in answer.out
    assert all(path.startswith("/api2/json/") for path in api.asked)
    assert not any("lxc" in path or "/900/" in path for path in api.asked)


def test_a_wrong_token_is_named(remote: Remote, api: Api) -> None:
    remote.secret.write_text("0000\n")
    answer = remote.audit(api)
    assert (answer.status, answer.out) == (3, "")
    assert f"does not accept the token '{TOKEN}': invalid token value!" in answer.err
    assert SECRET not in answer.err
    assert len(api.asked) == 1, "nobody knocks twice"


def test_too_few_rights_are_named(remote: Remote, api: Api) -> None:
    api.forbidden = {"storage"}
    answer = remote.audit(api)
    assert answer.status == 3
    assert "may not read /storage" in answer.err
    assert f"pveum acl modify / --tokens '{TOKEN}' --roles PVEAuditor" in answer.err
    api.forbidden = set()
    api.vms = {}  # a token without rights sees no VM, and the API says nothing of it
    answer = remote.audit(api)
    assert (answer.status, "sees no VM at all" in answer.out) == (3, True)


def test_a_dead_node_hides_its_own_vms_alone(remote: Remote, api: Api) -> None:
    api.dead_nodes = {"node2"}
    answer = remote.audit(api)
    assert answer.status == 3
    assert "VM 101 on node2 could not be looked at: the node behind" in answer.out
    assert "VM 100 ('web') on node1 writes to" in answer.out


def test_a_slow_answer_is_an_error_in_time(remote: Remote, api: Api) -> None:
    access = proxmox_api.Access(api.address, TOKEN, SECRET, str(remote.authority), timeout=0.5)
    api.slow = 3.0
    with pytest.raises(VmguardError, match="did not answer /nodes within"):
        proxmox_api.ask(access, 10)
    api.slow, api.drip = 0.0, 0.3  # each piece comes in time, all of them never do
    began = time.monotonic()
    answer = remote.audit(api, "--timeout", "2")
    assert time.monotonic() - began < 6
    assert answer.status == 3
    assert "did not tell all within 2 s" in answer.err


def test_who_cannot_prove_who_it_is_gets_no_token(remote: Remote, api: Api) -> None:
    answer = remote.audit(api, ca=False)
    assert answer.status == 3
    assert "cannot prove who it is" in answer.err
    assert "pve-root-ca.pem" in answer.err
    assert api.asked == []


def test_nobody_there_and_somebody_else_there(remote: Remote, api: Api) -> None:
    api.garbage = True
    assert "something that is no Proxmox API" in remote.audit(api).err
    by = ["--token", TOKEN, "--token-file", str(remote.secret)]
    answer = remote.vmguard("audit", "--api", "127.0.0.1:1", *by)
    assert answer.status == 3
    assert "cannot be reached: [Errno 111] Connection refused" in answer.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--api", "x"], "needs --token and --token-file"),
        (["--token", TOKEN], "belong to --api"),
        (["--api", "x", "--token", TOKEN, "--token-file", "/nowhere"], "cannot read the token's secret"),
        (["--api", "x", "--token", "root", "--token-file", "{secret}"], "is not the name of a token"),
        (["--api", "x", "--token", TOKEN, "--token-file", "/dev/null"], "secret is empty"),
    ],
)
def test_wrong_words_are_explained(remote: Remote, words: list[str], text: str) -> None:
    answer = remote.vmguard("audit", *(word.format(secret=remote.secret) for word in words))
    assert answer.status == 3
    assert text in answer.err


@pytest.mark.parametrize("missing", ["proxmoxer", "requests"])
def test_without_the_packages_it_says_which_and_does_not_end_the_process(missing: str) -> None:
    """proxmoxer calls sys.exit(1) when requests is missing."""
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from vmguard.adapters.proxmox import api as api\n"
        "try: api.ask(api.Access('127.0.0.1:1', 'a@b!c', 'x'), 5)\n"
        "except api.VmguardError as problem: print(problem.message)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert f"needs the Python package {missing}, which is not installed" in done.stdout, done


def test_the_files_come_back_as_they_were() -> None:
    text = proxmox_api.config_text({**DISK, "digest": "x", "description": "a\nscsi1: nas:1/x.raw", "onboot": 1})
    config = parse_config(text.encode(), "100")
    assert list(config.drives) == ["scsi0"]
    assert config.options["onboot"] == "1"
    storages = parse_storages(proxmox_api.storage_text([NAS, {"storage": "dd", "type": "dir", "path": "/x"}]).encode())
    assert {name: store.type for name, store in storages.by_id.items()} == {"nas": "nfs", "dd": "dir", "local": "dir"}
    assert storages.by_id["nas"].options["export"] == "/vm"
