"""The frame of the command line: finding a command, failing clearly, exit statuses that monitoring understands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import vmguard
from vmguard import config
from vmguard.cli import main as frame
from vmguard.cli.main import COMMANDS, Command, command_parser, main, top_parser
from vmguard.errors import LockConflict

ROOT = Path(vmguard.__file__).parents[1]

Capture = pytest.CaptureFixture[str]


PROBE = Command("probe", "for tests", "vmguard.cli.probe")


def probing(words: list[str]) -> int:
    """Run vmguard with one command more."""
    return main(words, (*COMMANDS, PROBE))


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of ``vmguard probe [WORD...]``, whose ``run`` each test sets."""
    module: Any = ModuleType("vmguard.cli.probe")
    module.add_arguments = lambda parser: parser.add_argument("words", nargs="*")
    module.seen = []

    def run(args: Any, out: Any) -> int:
        module.seen.append(args)
        return 0

    module.run = run
    monkeypatch.setitem(sys.modules, "vmguard.cli.probe", module)
    return module


# -- finding the command --------------------------------------------------------------------------------------------


def test_help_lists_every_command_within_80_columns(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {command.name} " in text for command in COMMANDS)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS, ids=[command.name for command in COMMANDS])
def test_the_help_of_each_command_fits_into_80_columns_and_tells_the_exit_status(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command.name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: vmguard {command.name}")
    assert "Exit status: 0 OK" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS, ids=[command.name for command in COMMANDS])
def test_no_command_takes_an_option_away_from_the_frame(command: Command) -> None:
    own = command_parser(command, frame._module(command))._option_string_actions
    assert not set(own) & (set(top_parser()._option_string_actions) - {"-h", "--help"})


def test_help_as_a_word_works_too(capsys: Capture) -> None:
    assert main(["help"]) == 0
    assert main(["--help", "config"]) == 0
    assert main(["help", "config"]) == 0
    assert "usage: vmguard config" in capsys.readouterr().out


def test_the_version_is_told(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vmguard {vmguard.__version__}\n"


# -- global options -------------------------------------------------------------------------------------------------

GLOBALS = ["--json", "--config", "/a", "--config=/b", "--timeout", "1m", "-v", "-qv"]


@pytest.mark.parametrize("at", range(4))
def test_global_options_may_stand_anywhere(probe: Any, at: int) -> None:
    words = ["probe", "one", "two"]
    assert probing([*words[:at], *GLOBALS, *words[at:]]) == 0
    (args,) = probe.seen
    assert (args.words, args.json, args.config, args.timeout) == (["one", "two"], True, ["/a", "/b"], 60.0)
    assert (args.verbose, args.quiet, args.no_color) == (2, True, False)


def test_without_options_a_command_sees_their_defaults(probe: Any) -> None:
    assert probing(["probe"]) == 0
    (args,) = probe.seen
    assert (args.json, args.config, args.timeout, args.verbose, args.quiet) == (False, None, None, 0, False)


def test_behind_two_dashes_nothing_is_an_option(probe: Any) -> None:
    assert probing(["probe", "-v", "--", "--json", "-a VM with dashes"]) == 0
    (args,) = probe.seen
    assert (args.words, args.json, args.verbose) == (["--json", "-a VM with dashes"], False, 1)


# -- wrong arguments ------------------------------------------------------------------------------------------------

MISUSE = {
    "a mistyped command": (["chekc"], "unknown command 'chekc'; did you mean 'check'?"),
    "no command at all": (["frobnicate"], "unknown command 'frobnicate'"),
    "a mistyped option": (["--jsn", "check"], "unknown option '--jsn'; did you mean '--json'?"),
    "an unknown option": (["config", "show", "--frob"], "unrecognized arguments: --frob"),
    "an abbreviation": (["config", "show", "--verb"], "unrecognized arguments: --verb"),
    "a missing value": (["config", "show", "--config"], "argument --config: expected one argument"),
    "a bad time": (["config", "show", "--timeout", "soon"], "'soon' is not a duration"),
    "no time": (["config", "show", "--timeout", "0"], "must be more than 0"),
    "a missing action": (["config"], "the following arguments are required: ACTION"),
    "a hostile word": (["\x1b[2J"], "unknown command '\\x1b[2J'"),
    "an empty word": ([""], "unknown command ''"),
}


@pytest.mark.parametrize(("words", "says"), MISUSE.values(), ids=MISUSE)
def test_misuse_exits_with_2_as_of_every_program(words: list[str], says: str, capsys: Capture) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vmguard: ")
    assert says in captured.err
    assert "\ndo now: " in captured.err


def test_misuse_with_json_is_an_object_on_standard_output(capsys: Capture) -> None:
    assert main(["chekc", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["exit_code"] == 2
    assert captured.err == ""


# -- a command that fails -------------------------------------------------------------------------------------------


def raising(problem: BaseException) -> Any:
    def run(args: Any, out: Any) -> int:
        raise problem

    return run


@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_the_status_of_a_command_is_the_exit_status(probe: Any, status: int) -> None:
    probe.run = lambda args, out: status
    assert probing(["probe"]) == status


def test_an_error_of_ours_is_one_sentence_and_a_hint(probe: Any, capsys: Capture) -> None:
    probe.run = raising(LockConflict("/a", "disk /a is locked by host b", "wait", ["  since    : yesterday"]))
    assert probing(["probe"]) == 2
    assert capsys.readouterr().err == "vmguard: disk /a is locked by host b\n  since    : yesterday\ndo now: wait\n"


def test_an_error_of_ours_with_json(probe: Any, capsys: Capture) -> None:
    probe.run = raising(LockConflict("/a", "locked", "wait"))
    assert probing(["--json", "probe"]) == 2
    assert json.loads(capsys.readouterr().out) == {"error": {"message": "locked", "hint": "wait", "exit_code": 2}}


def test_an_unexpected_error_is_one_line_and_the_way_to_the_traceback(probe: Any, capsys: Capture) -> None:
    probe.run = raising(RuntimeError("no\x1b[2J"))
    assert probing(["probe"]) == 3
    text = capsys.readouterr().err
    assert text.splitlines()[0] == "vmguard: unexpected RuntimeError: no\\x1b[2J"
    assert "-vv" in text
    assert "Traceback" not in text
    assert probing(["probe", "-vv"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--config=", "--config"])
def test_an_odd_option_does_not_hide_the_error(probe: Any, capsys: Capture, option: str) -> None:
    probe.run = raising(RuntimeError("no"))
    assert probing(["probe", option, "-q"]) == (2 if option == "--config" else 3)
    assert probing(["probe", "--config", ""]) == 3
    assert "unexpected RuntimeError: no" in capsys.readouterr().err


def test_the_daemon_always_shows_its_traceback(probe: Any, capsys: Capture) -> None:
    probe.run = raising(RuntimeError("no"))
    assert main(["daemon"], [PROBE._replace(name="daemon")]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_a_broken_pipe_that_is_not_our_output_is_an_error_and_not_silence(probe: Any, capsys: Capture) -> None:
    probe.run = raising(BrokenPipeError("the daemon's socket"))
    assert probing(["probe"]) == 3
    assert "unexpected BrokenPipeError" in capsys.readouterr().err


def test_an_interrupt_ends_without_a_word(probe: Any, capsys: Capture) -> None:
    probe.run = raising(KeyboardInterrupt())
    assert probing(["probe"]) == 130
    assert capsys.readouterr().err == ""


def test_a_command_whose_module_is_missing_says_so(capsys: Capture) -> None:
    assert main(["gone"], [Command("gone", "is gone", "vmguard.cli.gone")]) == 3
    assert "this installation cannot run 'gone': vmguard.cli.gone is missing" in capsys.readouterr().err


def test_a_missing_package_is_named(capsys: Capture) -> None:
    assert main(["gone"], [Command("gone", "is gone", "nosuchpackage.cli")]) == 3
    assert "'gone' needs the Python package nosuchpackage, which is not installed" in capsys.readouterr().err


# -- as a process ---------------------------------------------------------------------------------------------------


# -- vmguard config -------------------------------------------------------------------------------------------------


def test_config_example_prints_the_shipped_file(capsys: Capture) -> None:
    assert main(["config", "example"]) == 0
    assert capsys.readouterr().out == (ROOT / "config" / "vmguard.yaml").read_text()


def test_config_check_says_ok_or_every_problem(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "new.yaml"
    path.write_text("hook:\n  wait: 4s\n")
    path.chmod(0o644)
    assert main(["config", "check", str(path)]) == 0
    assert capsys.readouterr().out == f"OK: {path}\n"
    path.write_text("hook:\n  wait: x\n  tiemout: 4s\n")
    assert main(["config", "check", str(path)]) == 2
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{path}:2: hook.wait: 'x' is not a duration")
    assert second == f"{path}:3: hook.tiemout: unknown key; did you mean 'timeout'?"
    assert last.startswith("CRITICAL: 2 problems")


def test_config_check_for_machines(tmp_path: Path, capsys: Capture) -> None:
    assert main(["config", "check", "--json", str(tmp_path / "no.yaml")]) == 2
    value = json.loads(capsys.readouterr().out)
    assert value["status"] == "CRITICAL"
    assert [problem["text"] for problem in value["problems"]] == ["cannot be read: No such file or directory"]


def test_config_show_tells_every_value_and_where_it_was_set(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("hook:\n  wait: 4s\n")
    path.chmod(0o644)
    assert main(["config", "show", "--config", str(path)]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    assert lines["hook.wait"] == ["4s", f"{path}:2"]
    assert lines["hook.timeout"] == ["20s", "default"]
    assert list(lines) == [row.name for row in config.settings()]
    assert main(["config", "show", "--json", "--config", str(path)]) == 0
    shown = json.loads(capsys.readouterr().out)["settings"]["hook.wait"]
    assert shown == {"value": 4.0, "text": "4s", "default": 3.0, "set_in": f"{path}:2"}


def test_a_command_with_a_wrong_configuration_names_the_place(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("hook:\n  wait: soon\n")
    path.chmod(0o644)
    assert main(["config", "show", "--config", str(path)]) == 3
    assert capsys.readouterr().err.startswith(f"vmguard: {path}:2: hook.wait: 'soon' is not a duration")


@pytest.mark.parametrize("words", [["--domain-xml", "{file}"], ["--pve-config", "{file}"]])
def test_plan_names_the_file_that_it_does_not_understand(words: list[str], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "vm.xml").write_bytes(b"<domain>\0")
    assert main(["plan", *(word.format(file=tmp_path / "vm.xml") for word in words)]) == 3
    assert capsys.readouterr().err.startswith(f"vmguard: '{tmp_path}/vm.xml': ")


def test_plan_names_the_storages_that_it_does_not_understand(tmp_path: Path, capsys: Capture) -> None:
    for name, data in (("100.conf", b"name: web\n"), ("storage.cfg", b"\0")):
        (tmp_path / name).write_bytes(data)
    words = ["--pve-config", str(tmp_path / "100.conf"), "--storage-cfg", str(tmp_path / "storage.cfg")]
    assert main(["plan", *words]) == 3
    assert capsys.readouterr().err.startswith(f"vmguard: '{tmp_path}/storage.cfg': ")
