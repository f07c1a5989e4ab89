"""Manual pages: made from the program, so nothing in it can be missing from them."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from vmguard import config
from vmguard.cli import man
from vmguard.cli.main import all_parsers, top_parser
from vmguard.cli.manual import examples, pages
from vmguard.cli.manual.roff import Page, escape
from vmguard.doctor.catalogue import CHECKS
from vmguard.hook import operations
from vmguard.hook.libvirt import PROOF


def shown(page: str) -> str:
    """A page as a person reads it, in very long lines."""
    environment = {**os.environ, "MANWIDTH": "4000", "MAN_KEEP_FORMATTING": "", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"}
    done = subprocess.run(
        ["man", "-l", "-"], input=man.page(page), env=environment, capture_output=True, text=True, check=True
    )
    plain: str = subprocess.run(["col", "-bx"], input=done.stdout, capture_output=True, text=True, check=True).stdout
    return plain.replace("‐", "-")


@pytest.mark.parametrize("page", man.PAGES)
def test_a_page_is_shown_without_a_warning(page: str, tmp_path: Path) -> None:
    path = tmp_path / f"{page}.{man.PAGES[page]}"
    path.write_text(man.page(page))
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(path)],
        env={**os.environ, "MANROFFSEQ": "", "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


def test_every_command_and_every_option_is_in_vmguard_8() -> None:
    text = shown("vmguard")
    for name, parser in {"": top_parser(), **all_parsers()}.items():
        assert f"vmguard {name}" in text
        for action in parser._actions:
            if action.option_strings and action.dest != "help":
                assert all(option in text for option in action.option_strings), (name, action.option_strings)
                assert action.help, f"{name} {action.option_strings} has no help text"
    for check, why in CHECKS.items():
        assert check in text
        assert why[1:] in text


def test_every_setting_is_in_vmguard_yaml_5() -> None:
    text = shown("vmguard.yaml")
    for row in config.settings():
        assert row.name in text
        assert row.help.split(". ")[0] in text
        assert f"Default: {row.kind.show(row.default)}" in text


def test_every_operation_of_the_hooks_is_in_vmguard_hooks_7() -> None:
    text = shown("vmguard-hooks")
    for row in (*operations.LIBVIRT.values(), *operations.PROXMOX.values()):
        assert row.why in text
    assert PROOF in text


def test_nothing_in_a_text_is_obeyed_by_roff() -> None:
    assert escape(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert escape("'br") == "\\&'br"
    assert escape("a\\fBb --c") == "a\\efBb \\-\\-c"
    page = Page("x", 1, "1", "2026-11-21", "y")
    page.tagged("-rf", "")
    assert page.text().endswith("\\fB\\-rf\\fR\n\\&\n")


# -- examples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", man.PAGES)
def test_every_page_has_examples(page: str) -> None:
    assert '.SH "EXAMPLES"' in man.page(page)


def test_each_example_is_a_command_that_there_is() -> None:
    pages = (examples.VMGUARD, examples.HOOKS, examples.SECURITY)
    lines = [line for page in pages for typed in page.values() for line in typed if line.startswith("vmguard ")]
    assert len(lines) > 20
    parsers = all_parsers()
    for line in lines:
        _, name, *words = shlex.split(line)
        parsers[name].parse_args(words)  # raises UsageError


def test_the_examples_of_a_configuration_are_one(tmp_path: Path) -> None:
    for number, lines in enumerate(examples.YAML.values()):
        (tmp_path / f"{number}.yaml").write_text("\n".join(lines) + "\n")
        assert config.load([str(tmp_path / f"{number}.yaml")]).origins


def test_usage_lines_fit_a_terminal() -> None:
    for name, parser in {"vmguard": top_parser(), **all_parsers()}.items():
        assert max(map(len, pages._usage(parser))) <= 72, name
