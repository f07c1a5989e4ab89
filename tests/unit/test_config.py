"""The configuration: what an admin can write, and what he is told when it is wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as campaign
from hypothesis import strategies as st

from vmguard import config
from vmguard.config import document
from vmguard.config.values import AbsolutePath, Folders
from vmguard.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "config" / "vmguard.yaml"

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file as an admin would, and returns its path."""

    def write(text: str | bytes, name: str = "vmguard.yaml", mode: int = 0o644) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)
        return str(path)

    return write


def problems_of(*paths: str) -> list[str]:
    """What is wrong, without the name of the directory."""
    with pytest.raises(config.BadConfig) as caught:
        config.load(paths)
    return [f"{os.path.basename(item.file)}:{item.line}: {item.key}: {item.text}" for item in caught.value.problems]


# -- what is in force -----------------------------------------------------------------------------------------------


def test_without_any_file_the_strict_defaults_are_in_force() -> None:
    settings = config.load([])
    assert settings == config.Config()
    assert (settings.hook.wait, settings.hook.timeout) == (3.0, 20.0)
    assert settings.hook.daemon_absent is config.PolicyAction.REFUSE
    assert settings.policy.unsafe_mounts == "refuse"
    assert settings.owner_record.enabled is True


def test_the_shipped_file_is_made_from_the_table() -> None:
    assert SHIPPED.read_text() == config.example(), "run: vmguard config example > config/vmguard.yaml"


def test_the_shipped_file_changes_nothing_as_it_is(write: Write) -> None:
    settings = config.load([write(SHIPPED.read_text())])
    assert settings == config.Config()
    assert not settings.origins


def test_every_line_of_the_shipped_file_can_be_uncommented_and_says_the_default(write: Write) -> None:
    uncommented = re.sub(r"(?m)^  #(?! )", "  ", SHIPPED.read_text())
    settings = config.load([write(uncommented)])
    assert settings == config.Config()
    assert set(settings.origins) == {row.path for row in config.settings()}


def test_the_shipped_file_explains_every_setting_in_79_columns() -> None:
    text = SHIPPED.read_text()
    assert max(map(len, text.splitlines())) <= 79
    for row in config.settings():
        assert re.search(rf"(?m)^  #{row.key}: ", text)
        assert row.help
        assert row.kind.parse(row.kind.show(row.default) if row.default not in ("", ()) else "") == row.default


def test_a_later_drop_in_wins_key_by_key_and_show_can_tell_where(write: Write) -> None:
    main = write("hook:\n  wait: 5s\n  timeout: 1m\n")
    early = write("hook: {wait: 7s}\n", "10-early.yaml")
    late = write("# late\nhook:\n  wait: 9s\n", "20-late.yaml")
    settings = config.load([main, early, late])
    assert (settings.hook.wait, settings.hook.timeout) == (9.0, 60.0)
    origins = {row.name: settings.origin(row) for row in config.settings()}
    assert origins["hook.wait"] == f"{late}:3"
    assert origins["hook.timeout"] == f"{main}:3"
    assert origins["daemon.run_dir"] == "default"


def test_drop_ins_are_found_in_the_order_of_their_names(write: Write, tmp_path: Path) -> None:
    assert config.default_paths(str(tmp_path)) == []
    names = ["vmguard.yaml", "conf.d/10-a.yaml", "conf.d/9-b.yaml"]
    paths = [write("", name) for name in names]
    for ignored in ("conf.d/.10-a.yaml.swp", "conf.d/.hidden.yaml", "conf.d/10-a.yaml~", "conf.d/README"):
        write("x", ignored)
    assert config.default_paths(str(tmp_path)) == paths


def test_a_drop_in_with_the_wrong_ending_is_not_silently_ignored(write: Write, tmp_path: Path) -> None:
    write("hook:\n", "conf.d/site.yml")
    with pytest.raises(ConfigError, match=r"site\.yml: is not read, because its name does not end in \.yaml"):
        config.default_paths(str(tmp_path))


def test_the_configuration_cannot_be_changed_by_accident() -> None:
    with pytest.raises(AttributeError):
        config.Config().hook.wait = 5.0  # type: ignore[misc]


# -- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3), ("0.5", 0.5), ("3s", 3), ("500ms", 0.5), ("2m", 120), ("1h30m", 5400), ("1m1.5s", 61.5), ("0", 0)],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert config.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "3 s", "-1", "+1", "1e3", "inf", "nan", "1:30", "3sec", "30m1h", "1s2s", "٣s", ".5", "9" * 400]
)
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 3s"):
        config.parse_duration(text)


@given(st.integers(min_value=0, max_value=10**10))
def test_a_duration_survives_being_shown(milliseconds: int) -> None:
    shown = config.format_duration(milliseconds / 1000)
    assert round(config.parse_duration(shown) * 1000) == milliseconds


def test_yaml_1_1_does_not_reinterpret_words(write: Write) -> None:
    text = "windows: {qemu: off, libvirt: ON}\nowner_record: {enabled: Off, directory: 010}\nhosts: {name: 1e3}\n"
    settings = config.load([write(text)])
    assert (settings.windows.qemu, settings.windows.libvirt) == ("off", "on")
    assert settings.owner_record.enabled is False
    assert settings.owner_record.directory == "010"
    assert settings.hosts.name == "1e3"


def test_a_path_is_made_plain() -> None:
    assert AbsolutePath().parse("//run//vmguard/./") == "/run/vmguard"
    assert Folders().parse("/srv/a:/srv//b/") == ("/srv/a", "/srv/b")
    assert Folders().show(("/srv/a", "/srv/b")) == '"/srv/a:/srv/b"'


def test_the_run_directory_leaves_room_for_the_name_of_a_socket(write: Write) -> None:
    assert "is longer than 90 bytes" in problems_of(write(f"daemon: {{run_dir: /{'x' * 90}}}"))[0]


# -- mistakes -------------------------------------------------------------------------------------------------------

MISTAKES = {
    "an unknown section": ("hok:\n  wait: 3s\n", 1, "hok", "unknown section; did you mean 'hook'?"),
    "an unknown key": ("hook:\n  wiat: 3s\n", 2, "hook.wiat", "unknown key; did you mean 'wait'?"),
    "nothing like it": ("hook:\n  xyzzy: 3s\n", 2, "hook.xyzzy", "unknown key"),
    "the wrong section": ("hook:\n  qemu: on\n", 2, "hook.qemu", "unknown key; 'qemu' belongs to section 'windows'"),
    "no section at all": ("wait: 3s\n", 1, "wait", "is a key of section 'hook', not a section"),
    "not a duration": ("hook:\n  wait: 3x\n", 2, "hook.wait", "'3x' is not a duration such as 3s"),
    "out of range": ("hook:\n  wait: 61s\n", 2, "hook.wait", "'61s' is out of range: 0s to 1m"),
    "an unknown choice": ("policy: {unsafe_mounts: allow}", 1, "policy.unsafe_mounts", "'allow' is not refuse or warn"),
    "a mistyped choice": ("daemon: {log_level: inof}", 1, "daemon.log_level", "did you mean 'info'?"),
    "not a switch": ("owner_record: {enabled: 1}", 1, "owner_record.enabled", "'1' is not yes or no"),
    "a relative path": ("daemon: {run_dir: run}", 1, "daemon.run_dir", "'run' is not an absolute path"),
    "a relative folder among others": (
        "storage: {trusted_folders: '/srv/a:b'}",
        1,
        "storage.trusted_folders",
        "'b' is not an absolute path",
    ),
    "a path upwards": ("daemon: {run_dir: /run/../etc}", 1, "daemon.run_dir", "is not an absolute path"),
    "a path as a name": ("owner_record: {directory: ../x}", 1, "owner_record.directory", "'../x' is not the name of"),
    "dot-dot as a name": ("owner_record: {directory: ..}", 1, "owner_record.directory", "'..' is not the name of"),
    "no value": ("hook:\n  wait:\n", 2, "hook.wait", "has no value; it takes duration, 0s to 1m"),
    "null": ("hook: {wait: ~}", 1, "hook.wait", "has no value"),
    "an empty value": ('hook: {wait: ""}', 1, "hook.wait", "'' is not a duration"),
    "a list for a value": ("hook:\n  wait: [3s]\n", 2, "hook.wait", "takes a value (duration, 0s to 1m), not a list"),
    "a mapping for a value": ("hook: {wait: {a: b}}", 1, "hook.wait", "not a mapping"),
    "a word for a section": ("hook: on", 1, "hook", "must hold lines such as 'wait: VALUE', not 'on'"),
    "no space after the colon": ("hook:\n  wait:3\n", 2, "hook", "not 'wait:3'"),
    "a list for a section": ("hook:\n- wait\n", 2, "hook", "not a list"),
    "a list for the file": ("- hook\n", 1, "", "must hold sections such as 'hook:', not a list"),
    "a word for the file": ("hook\n", 1, "", "not 'hook'"),
    "a key twice": ("hook:\n  wait: 3\n  wait: 4\n", 3, "hook.wait", "is given twice, first in line 2"),
    "a section twice": ("hook:\npolicy:\nhook:\n", 3, "hook", "is given twice, first in line 1"),
    "a list for a key": ("hook: {? [a] : b}", 1, "hook", "a key must be a word, not a list"),
    "an anchor": ("hook: {wait: &a 3s}", 1, "", "anchors and aliases (&a) are not allowed"),
    "an alias": ("hook: *a", 1, "", "anchors and aliases (&a) are not allowed"),
    "a tag": ("hook: {wait: !!python/name:os.system 3}", 1, "", "tags ('tag:yaml.org,2002:python/name:os.system')"),
    "a second document": ("hook:\n---\nhook:\n", 2, "", "a second document begins here"),
    "a tab": ("hook:\n\twait: 3s\n", 2, "", "is indented with a tab; YAML wants spaces"),
    "a tab behind the colon": ("hook:\n  wait:\t3s\n", 2, "", "holds a tab; YAML wants spaces"),
    "wrong indentation": ("hook:\n  wait: 3s\n timeout: 9s\n", 3, "", "is not YAML"),
    "two colons": ("hook: wait: 3s\n", 1, "", "is not YAML: mapping values are not allowed here"),
    "an open bracket": ("hook: [", 1, "", "is not YAML"),
    "a control character": ("hook:\n  wait: 3\x07\n", 2, "", "character U+0007 is not allowed"),
    "an impossible escape": ('hook:\n  wait: "\\UFFFFFFFF"\n', 2, "", "is not YAML"),
    "an impossible version": (f"%YAML {'9' * 5000}.1\n---\nhook:\n", 1, "", "is not YAML"),
    "a deep nest": ("[" * 5000, 1, "", "more than 8 levels"),
    "a surrogate": ('hosts: {name: "\\ud800"}', 1, "hosts.name", "'\\ud800' is not a host's name"),
}


@pytest.mark.parametrize(("text", "line", "key", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_its_line_and_key(write: Write, text: str, line: int, key: str, says: str) -> None:
    (problem,) = problems_of(write(text))
    assert problem.startswith(f"vmguard.yaml:{line}: {key}: ")
    assert says in problem


def test_all_mistakes_of_all_files_are_named_at_once(write: Write) -> None:
    one = write("hok:\nhook:\n  wait: x\n  timeout: &a y\n", "1.yaml")
    two = write("hook:\n\twait: 3\n", "2.yaml")
    three = write("policy: {block_devices: no}\n", "3.yaml")
    found = [problem.split(": ")[0] for problem in problems_of(one, two, three)]
    assert found == ["1.yaml:1", "1.yaml:3", "1.yaml:4", "1.yaml:4", "2.yaml:2", "3.yaml:1"]


def test_the_message_begins_with_file_line_and_key_and_stays_short(write: Write) -> None:
    path = write("hook:\n" + "".join(f"  x{number}: 1\n" for number in range(50)))
    with pytest.raises(ConfigError) as caught:
        config.load([path])
    lines = caught.value.message.split("\n")
    assert lines[0] == f"{path}:2: hook.x0: unknown key"
    assert len(lines) == 21
    assert lines[-1] == "and 30 more problems"
    assert "vmguard config check" in caught.value.hint


def test_a_hostile_value_is_shown_harmlessly(write: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load([write('hook: {wait: "\\e[2J\\n[red]' + "x" * 500 + '", "\\e[1m": 1}')])
    assert "\x1b" not in caught.value.message
    assert "'\\x1b[2J\\n[red]" in caught.value.message
    assert "…" in caught.value.message


def test_bytes_that_are_not_utf_8_are_found_in_their_line(write: Write) -> None:
    assert problems_of(write(b"hook:\n  wait: \xff\n")) == ["vmguard.yaml:2: : byte 0xff is not UTF-8"]


def test_a_byte_order_mark_and_dos_line_ends_do_no_harm(write: Write) -> None:
    assert config.load([write(b"\xef\xbb\xbfhook:\r\n  wait: 4s\r\n")]).hook.wait == 4.0


# -- settings that contradict each other ----------------------------------------------------------------------------


def test_the_hook_must_not_end_before_its_wait_is_over(write: Write) -> None:
    path = write("hook:\n  wait: 30s\n")
    (problem,) = problems_of(path)
    assert problem.startswith(
        "vmguard.yaml:2: hook.timeout: is 20s (default), but must be longer than hook.wait, which"
    )
    assert f"30s ({path}:2)" in problem


def test_a_contradiction_between_two_files_names_both(write: Write) -> None:
    main, late = write("daemon:\n  start_deadline: 10s\n"), write("hook:\n\n  timeout: 15s\n", "late.yaml")
    (problem,) = problems_of(main, late)
    assert f"daemon.start_deadline: is 10s ({main}:2)" in problem
    assert f"hook.timeout, which is 15s ({late}:3)" in problem


def test_the_defaults_do_not_contradict_each_other() -> None:
    assert config.contradictions(config.Config()) == []


# -- files that must not be trusted ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o777])
def test_a_file_that_others_can_write_is_refused(write: Write, mode: int) -> None:
    path = write("hook:\n", mode=mode)
    with pytest.raises(ConfigError, match=rf"can be written by others than its owner \(mode {mode:04o}\)") as caught:
        config.load([path])
    assert caught.value.hint == f"chmod go-w {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_that_belongs_to_somebody_else_is_refused(write: Write) -> None:
    path = write("hook:\n")
    os.chown(path, 12345, 0)
    assert problems_of(path) == ["vmguard.yaml:0: : belongs to user 12345, not to root"]


def test_a_missing_file_is_an_error_when_it_was_asked_for(tmp_path: Path) -> None:
    assert problems_of(str(tmp_path / "a.yaml")) == ["a.yaml:0: : cannot be read: No such file or directory"]


def test_a_directory_a_fifo_and_a_device_are_refused_and_nothing_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (str(tmp_path), str(tmp_path / "fifo"), "/dev/zero"):
        assert problems_of(path) == [f"{os.path.basename(path)}:0: : is not a regular file"]


def test_a_file_of_more_than_a_mebibyte_is_refused(write: Write) -> None:
    assert problems_of(write(b"#" * (document.MAX_BYTES + 1))) == ["vmguard.yaml:0: : is larger than 1 MiB"]


def test_a_path_with_a_nul_is_an_error_like_any_other() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(["/etc/\0"])


# -- reload ---------------------------------------------------------------------------------------------------------


def test_a_reload_with_a_mistake_keeps_the_last_good_one_and_says_why(write: Write) -> None:
    good, problems = config.load_or_last_good(config.Config(), [write("hook: {wait: 4s}")])
    assert (good.hook.wait, problems) == (4.0, ())
    still, problems = config.load_or_last_good(good, [write("hook: {wait: soon}")])
    assert still is good
    assert [problem.key for problem in problems] == ["hook.wait"]


def test_a_reload_tells_what_only_a_restart_takes_up(write: Write) -> None:
    new = config.load([write("daemon: {run_dir: /run/other, log_level: debug}")])
    assert config.needs_restart(config.Config(), new) == ["daemon.run_dir"]


# -- anything at all ------------------------------------------------------------------------------------------------

_WORDS = st.sampled_from(
    [row.key for row in config.settings()] + list(config.sections()) + ["<<", "x", "3s", "on", "~"]
)
_MARKS = st.sampled_from(
    [
        "\n",
        "\n  ",
        ": ",
        ":",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "!t ",
        "|",
        ">",
        "'",
        '"',
        "#",
        "\t",
        "---",
        ",",
        "? ",
        "%",
    ]
)
_YAML_LIKE = st.lists(_WORDS | _MARKS, max_size=30).map("".join)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any") / "any.yaml"


@campaign(max_examples=300, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(_YAML_LIKE | st.text(max_size=200) | st.binary(max_size=200))
def test_whatever_is_in_a_file_the_answer_is_a_configuration_or_a_config_error(
    scratch: Path, text: str | bytes
) -> None:
    scratch.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    settings, problems = config.load_or_last_good(config.Config(), [str(scratch)])
    assert config.contradictions(settings) == []
    assert all(str(problem).startswith(f"{scratch}:") and str(problem).isprintable() for problem in problems)
