"""The command line as a process of its own: what it imports, how it ends when its output cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import vmguard

ROOT = Path(vmguard.__file__).parents[1]


def vmguard_process(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vmguard", *words]
    options = {"capture_output": True, "text": True, "timeout": 30, "cwd": ROOT, **options}
    return subprocess.run(command, check=False, **options)


def test_only_the_module_of_the_command_is_imported() -> None:
    code = "import sys; from vmguard.cli.main import main; main(['config', 'example']); print([*sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = result.stdout.splitlines()[-1]
    assert "'vmguard.cli.config_cmd'" in loaded
    for heavy in ("vmguard.cli.status", "vmguard.daemon", "yaml", "rich", "fasteners", "subprocess", "socket"):
        assert f"'{heavy}'" not in loaded


def test_a_reader_that_leaves_early_hears_no_complaint() -> None:
    script = f'"{sys.executable}" -m vmguard config example | true; echo ${{PIPESTATUS[0]}}'
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stderr == ""
    assert result.stdout.strip() in ("0", "141")


def test_a_full_disk_is_an_error_and_not_a_success() -> None:
    for words in (["config", "show"], ["config", "show", "--json"], ["--help"]):
        with open("/dev/full", "w") as full:
            result = vmguard_process(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
        assert result.returncode == 3
        assert result.stderr == "vmguard: the output cannot be written: No space left on device\n"


def test_python_m_vmguard_is_the_same_command() -> None:
    result = vmguard_process("--version")
    assert (result.returncode, result.stdout) == (0, f"vmguard {vmguard.__version__}\n")


def test_the_configuration_needs_no_yaml_package_as_long_as_there_is_no_file() -> None:
    code = "import sys; sys.modules['yaml'] = None; from vmguard import config; print(config.load([]).hook.wait)"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert result.stdout == "3.0\n"
