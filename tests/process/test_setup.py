"""tests/setup sees whether .venv serves this checkout: a clone that was moved or copied brings a wrong one along."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.guard import REPOSITORY

pytestmark = pytest.mark.process

PYTHON = os.path.realpath("/usr/bin/python3")


def make_venv(clone: Path) -> None:
    """What tests/setup leaves, as far as it looks at that: an interpreter, the project, a script, the stamp."""
    venv = clone / ".venv"
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", str(venv)], check=True)
    (packages,) = venv.glob("lib/python3.*/site-packages")
    (packages / "vmguard.pth").write_text(f"{clone}\n")
    (venv / "bin/vmguard").write_text(f"#!{venv}/bin/python\n")
    stamp(clone)


def stamp(clone: Path) -> None:
    text = (clone / "tests/setup").read_text() + (clone / "pyproject.toml").read_text() + f"{clone}\n{PYTHON}\n"
    (clone / ".venv/.vmguard-setup").write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  -\n")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    made = tmp_path / "clone"
    (made / "tests/lab").mkdir(parents=True)
    (made / "vmguard").mkdir()
    (made / "vmguard/__init__.py").touch()
    shutil.copy(REPOSITORY / "tests/setup", made / "tests")
    shutil.copy(REPOSITORY / "tests/lab/get-kernel", made / "tests/lab")
    for name in ("6.12", "testing"):
        kept = tmp_path / "kernels" / name
        kept.mkdir(parents=True)
        (kept / "linux.uml").touch(mode=0o755)
    shutil.copy(REPOSITORY / "pyproject.toml", made)
    make_venv(made)
    return made


def check(clone: Path) -> tuple[int, str]:
    """The answer of ``tests/setup --check``, which changes nothing."""
    before = sorted(clone.rglob("*"))
    environment = {**os.environ, "VMGUARD_LAB_KERNELS": str(clone.parent / "kernels")}
    done = subprocess.run([str(clone / "tests/setup"), "--check"], capture_output=True, text=True, env=environment)
    assert sorted(path for path in clone.rglob("*") if "__pycache__" not in path.parts) == before
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_finished_setup_has_nothing_to_do(clone: Path) -> None:
    assert check(clone) == (0, "")


def test_a_moved_clone_is_seen(clone: Path) -> None:
    moved = clone.rename(clone.with_name("moved"))
    assert check(moved) == (1, "setup: .venv has no vmguard\n")
    stamp(moved)  # not by the stamp alone
    assert check(moved) == (1, "setup: .venv has no vmguard\n")


def test_a_copied_clone_is_seen(clone: Path) -> None:
    copy = clone.with_name("copy")
    shutil.copytree(clone, copy, symlinks=True)
    stamp(copy)
    assert check(copy) == (1, f"setup: .venv belongs to another checkout: its vmguard is {clone}/vmguard/__init__.py\n")
    assert check(clone) == (0, "")


def test_scripts_of_another_place_are_seen(clone: Path) -> None:
    (clone / ".venv/bin/vmguard").write_text("#!/elsewhere/.venv/bin/python\n")
    status, said = check(clone)
    assert status == 1
    assert said.startswith("setup: .venv was made in another place: ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda clone: shutil.rmtree(clone / ".venv"), "there is no .venv"),
        (lambda clone: (clone / ".venv/.vmguard-setup").unlink(), ".venv was not finished"),
        (
            lambda clone: (clone / "pyproject.toml").write_text("[project]\n"),
            "tests/setup, pyproject.toml or the place of this checkout have changed",
        ),
        (lambda clone: shutil.rmtree(clone.parent / "kernels/6.12"), "there is no kernel 6.12 for the lab"),
    ],
    ids=["none", "unfinished", "other requirements", "no kernel"],
)
def test_what_else_must_be_done_is_said(clone: Path, change: object, said: str) -> None:
    assert callable(change)
    change(clone)
    assert check(clone) == (1, f"setup: {said}\n")
