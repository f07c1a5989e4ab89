"""What commands print: for people, pipes and machines; and names that try to be more than names."""

from __future__ import annotations

import io
import json
import sys

import pytest

from vmguard.cli.output import Output, OutputClosed
from vmguard.errors import VmguardError

HOSTILE = "\x1b[2Jweb\n[red]db[/red]\r\x9b31m\u202e:skull:"


class Screen(io.StringIO):
    """A terminal, as far as Output asks."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Pipe(io.StringIO):
    encoding = "utf-8"


def on_screen(columns: int = 80, /, **environ: str) -> tuple[Output, Screen]:
    screen = Screen()
    return Output(screen, Pipe(), environ={"COLUMNS": str(columns), "TERM": "xterm", **environ}), screen


def piped(**options: bool) -> tuple[Output, Pipe, Pipe]:
    stdout, stderr = Pipe(), Pipe()
    return Output(stdout, stderr, environ={}, **options), stdout, stderr


def show_a_vm(out: Output) -> None:
    out.status("CRITICAL", "VM 'web' runs twice")
    out.table(["vm", "status"], [["web", "CRITICAL"], ["a-longer-name", "OK"]])


# -- colours --------------------------------------------------------------------------------------------------------


def test_a_terminal_gets_colours() -> None:
    pytest.importorskip("rich")
    out, screen = on_screen()
    show_a_vm(out)
    assert "\x1b[1;31mCRITICAL\x1b[0m: VM 'web' runs twice" in screen.getvalue()
    assert "\x1b[32mOK" in screen.getvalue()


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_nobody_gets_colours_who_said_no(environ: dict[str, str]) -> None:
    out, screen = on_screen(80, **environ)
    show_a_vm(out)
    assert screen.getvalue().isascii()
    assert "\x1b" not in screen.getvalue()


def test_an_empty_no_color_says_nothing() -> None:
    pytest.importorskip("rich")
    out, screen = on_screen(NO_COLOR="")
    show_a_vm(out)
    assert "\x1b[1;31m" in screen.getvalue()


def test_the_option_no_color_wins() -> None:
    screen = Screen()
    show_a_vm(Output(screen, Pipe(), no_color=True, environ={"TERM": "xterm"}))
    assert "\x1b" not in screen.getvalue()


def test_without_rich_everything_works_and_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    out, screen = on_screen()
    show_a_vm(out)
    assert screen.getvalue().splitlines() == [
        "CRITICAL: VM 'web' runs twice",
        "VM             STATUS",
        "web            CRITICAL",
        "a-longer-name  OK",
    ]


def test_a_pipe_gets_aligned_text_and_never_loads_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    out, stdout, _ = piped()
    show_a_vm(out)
    assert stdout.getvalue().splitlines()[1:] == [
        "VM             STATUS",
        "web            CRITICAL",
        "a-longer-name  OK",
    ]


def test_wide_characters_keep_their_columns_aligned() -> None:
    out, stdout, _ = piped()
    out.table(["vm", "state"], [["仮想機", "running"], ["e\u0301te", "off"], ["abcdef", "off"]])
    assert [line.rsplit("  ", 1)[0] for line in stdout.getvalue().splitlines()[1:]] == [
        "仮想機",
        "e\u0301te   ",
        "abcdef",
    ]


# -- width ----------------------------------------------------------------------------------------------------------

LONG = "/srv/vm/images/" + "long-" * 20 + "disk.qcow2"


def test_a_table_fits_into_80_columns_and_loses_nothing() -> None:
    pytest.importorskip("rich")
    from rich.text import Text

    out, screen = on_screen(80)
    out.table(["mode", "file", "from"], [["exclusive", LONG, "disk vda"]])
    lines = [Text.from_ansi(line).plain for line in screen.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    assert LONG in "".join(line[11:].split("  ")[0].strip() for line in lines[2:])


def test_a_plain_terminal_gets_a_list_where_a_table_would_not_fit() -> None:
    out, screen = on_screen(80, NO_COLOR="1")
    out.table(["mode", "file"], [["exclusive", LONG], ["shared", "/b"]])
    assert screen.getvalue() == f"MODE  exclusive\nFILE  {LONG}\n\nMODE  shared\nFILE  /b\n"


def test_a_pipe_gets_whole_lines_however_long() -> None:
    out, stdout, _ = piped()
    out.table(["file"], [[LONG]])
    assert stdout.getvalue() == f"FILE\n{LONG}\n"


def test_a_long_status_line_is_not_broken_so_that_it_can_be_copied() -> None:
    out, screen = on_screen(40)
    out.status("OK", LONG)
    assert screen.getvalue().count("\n") == 1


@pytest.mark.parametrize("columns", ["", "x", "0", "-5"])
def test_a_nonsensical_width_does_no_harm(columns: str) -> None:
    out = Output(Screen(), Pipe(), environ={"COLUMNS": columns, "TERM": "xterm"})
    out.table(["a"], [["b"]])
    assert out.width > 0


def test_a_table_without_rows_still_shows_its_columns() -> None:
    for out, stream in (on_screen(), on_screen(NO_COLOR="1"), piped()[:2], on_screen(3, NO_COLOR="1")):
        out.table(["vm", "state"], [])
        assert "VM" in stream.getvalue()


# -- names that try to be more --------------------------------------------------------------------------------------


def test_a_hostile_name_is_shown_and_not_obeyed() -> None:
    pytest.importorskip("rich")
    for out, stream in (on_screen(400), on_screen(400, NO_COLOR="1"), piped()[:2]):
        out.line(HOSTILE)
        out.status("OK", HOSTILE)
        out.table(["vm", "status"], [[HOSTILE, HOSTILE]])
        text = stream.getvalue()
        assert "\x1b[2J" not in text
        assert not set("\r\x9b\u202e") & set(text)
        assert text.count("\\x1b[2Jweb\\n[red]db[/red]\\r\\x9b31m\\u202e:skull:") == 4


def test_a_hostile_name_in_a_warning_or_an_error_stays_on_its_line() -> None:
    out, _, stderr = piped()
    out.warn(HOSTILE)
    out.error(f"VM {HOSTILE!r} is not started\n  held by  : \x1b[1mB", "wait", 3)
    assert "\x1b" not in stderr.getvalue()
    assert stderr.getvalue().splitlines()[2:] == ["  held by  : \\x1b[1mB", "do now: wait"]


def test_a_name_that_is_not_utf_8_can_be_printed() -> None:
    out, stdout, _ = piped()
    out.line("disk \udcff")
    assert stdout.getvalue() == "disk \\udcff\n"


def test_a_terminal_that_knows_only_ascii_gets_escapes() -> None:
    raw = io.BytesIO()
    out = Output(io.TextIOWrapper(raw, encoding="ascii"), Pipe(), environ={})
    out.line("Prüfung")
    out.flush()
    assert raw.getvalue() == b"Pr\\xfcfung\n"


# -- machines -------------------------------------------------------------------------------------------------------


def test_with_json_standard_output_holds_one_document_and_nothing_else() -> None:
    out, stdout, stderr = piped(as_json=True)
    show_a_vm(out)
    out.line("a line")
    out.block("a block")
    out.warn("a warning")
    out.json({"name": HOSTILE, "b": 1, "a": [None, True]})
    assert stdout.getvalue().isascii()
    assert "\x1b" not in stdout.getvalue()
    value = json.loads(stdout.getvalue())
    assert value["name"] == HOSTILE
    assert list(value) == ["name", "b", "a"], "the command's own order is kept"
    assert stderr.getvalue() == "vmguard: warning: a warning\n"


def test_with_json_an_error_is_an_object() -> None:
    out, stdout, stderr = piped(as_json=True)
    out.error("it failed", "try again", 2)
    assert json.loads(stdout.getvalue()) == {"error": {"message": "it failed", "hint": "try again", "exit_code": 2}}
    assert stderr.getvalue() == ""


def test_quiet_drops_warnings_but_no_errors() -> None:
    out, _, stderr = piped(quiet=True)
    out.warn("hm")
    out.error("it failed", "", 3)
    assert stderr.getvalue() == "vmguard: it failed\n"


def test_lines_and_warnings_keep_their_order_in_one_log() -> None:
    raw = io.BytesIO()
    both = (io.TextIOWrapper(raw, encoding="utf-8", write_through=False) for _ in range(2))
    out = Output(*both, environ={})
    out.line("first")
    out.warn("second")
    out.line("third")
    out.flush()
    assert raw.getvalue().decode().split() == ["first", "vmguard:", "warning:", "second", "third"]


# -- streams that fail ----------------------------------------------------------------------------------------------


class Failing(Pipe):
    def __init__(self, problem: OSError) -> None:
        super().__init__()
        self._problem = problem

    def write(self, text: str) -> int:
        raise self._problem


def test_a_reader_that_left_is_told_apart_from_a_full_disk() -> None:
    with pytest.raises(OutputClosed):
        Output(Failing(BrokenPipeError()), Pipe(), environ={}).line("x")
    with pytest.raises(VmguardError, match="the output cannot be written: No space left"):
        Output(Failing(OSError(28, "No space left on device")), Pipe(), environ={}).line("x")


def test_a_standard_error_that_fails_does_not_hide_the_exit_status() -> None:
    Output(Pipe(), Failing(BrokenPipeError()), environ={}).error("it failed", "hint", 2)


def test_a_program_started_without_standard_output_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    out = Output(environ={})
    show_a_vm(out)
    out.flush()
