"""The packages are built by one command each, and say what they should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import vmguard
from tests.support.guard import REPOSITORY

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

#: what both packages must bring, besides the Python package
BRINGS = (
    "/usr/share/doc/vmguard/README.md",
    *(f"/usr/share/doc/vmguard/{path.name}" for path in sorted((REPOSITORY / "packaging/docs").glob("*.md"))),
    "/usr/share/doc/vmguard/demo.svg",
    "/usr/bin/vmguard",
    "/etc/vmguard/vmguard.yaml",
    "/usr/share/vmguard/hooks/qemu",
    "/usr/share/vmguard/hooks/vmguard-hookscript",
    "/usr/share/vmguard/prometheus/vmguard.rules.yaml",
    "/usr/share/vmguard/prometheus/grafana-dashboard.json",
    "/usr/share/vmguard/schemas/status.json",
    "/usr/share/vmguard/schemas/error.json",
    "/usr/share/bash-completion/completions/vmguard",
    "/usr/share/fish/vendor_completions.d/vmguard.fish",
    "/usr/share/man/man8/vmguard.8",
    "/usr/share/man/man5/vmguard.yaml.5",
    "/usr/share/man/man7/vmguard-hooks.7",
    "/usr/share/man/man7/vmguard-security.7",
    "/systemd/system/vmguard.service",
    "/systemd/system/vmguard.socket",
    "/systemd/system/vmguard-notify.service",
    "/systemd/system/vmguard-notify.timer",
)


def said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def modules() -> set[str]:
    return {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "vmguard").rglob("*.py")}


def test_the_deb_is_built_and_lintian_has_nothing_to_say(tmp_path: Path) -> None:
    told = said("packaging/build-deb")
    path = told.splitlines()[-1]
    assert told == f"{path}\n", "lintian would have spoken before it"
    files = said("dpkg-deb", "--contents", path)
    assert all(name in files for name in BRINGS)
    assert all(f"/usr/lib/python3/dist-packages/{name}" in files for name in modules())
    assert "/usr/share/pve-manager/templates/default/vmguard-subject.txt.hbs" in files, "Proxmox VE looks there"
    assert "/usr/share/zsh/vendor-completions/_vmguard" in files
    assert "/etc/libvirt" not in files, "installing changes no hook"
    about = said("dpkg-deb", "--field", path)
    assert f"Version: {vmguard.__version__}" in about
    assert "Architecture: all" in about
    assert "Recommends: nfs-common, python3-libvirt" in about
    assert "python3-fasteners, python3-rich, python3-yaml" in about


def test_the_deb_runs_from_where_it_was_unpacked(tmp_path: Path) -> None:
    """With Debian's own Python and its packages, and nothing of this repository."""
    path = said("packaging/build-deb").splitlines()[-1]
    said("dpkg-deb", "--extract", path, str(tmp_path))
    first = (tmp_path / "usr/bin/vmguard").read_text().splitlines()[0]
    assert first == "#!/usr/bin/python3 -I", "dh_python3 may write it anew"
    library = tmp_path / "usr/lib/python3/dist-packages"
    command = ["/usr/bin/env", "-i", f"PYTHONPATH={library}", "/usr/bin/python3", str(tmp_path / "usr/bin/vmguard")]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout == f"vmguard {vmguard.__version__}\n"
    said(*command, "config", "check", str(tmp_path / "etc/vmguard/vmguard.yaml"))


def test_the_links_of_the_installed_documents_lead_to_installed_documents(tmp_path: Path) -> None:
    """They lie beside each other there, and not in the folders of this tree."""
    said("packaging/layout", str(tmp_path), "/lib", sys.executable)
    folder = tmp_path / "usr/share/doc/vmguard"
    pages = {path.name: path.read_text() for path in folder.glob("*.md")}
    assert len(pages) > 12
    there = {path.name for path in folder.iterdir()}
    links = [(name, link) for name, text in pages.items() for link in re.findall(r"\]\(([^)\s#:]+)(?:#[^)]*)?\)", text)]
    assert len(links) > 40
    assert [(name, link) for name, link in links if link not in there] == []


def test_rpmbuild_builds_the_spec() -> None:
    path = said("packaging/build-rpm").splitlines()[-1]
    files = said("rpm", "-qlp", path)
    assert all(name in files for name in BRINGS)
    assert all(f"/site-packages/{name}" in files for name in modules())
    assert "/usr/share/zsh/site-functions/_vmguard" in files
    assert "/etc/vmguard/vmguard.yaml" in said("rpm", "-qp", "--configfiles", path)
    assert "python3-fasteners" in said("rpm", "-qp", "--requires", path)
