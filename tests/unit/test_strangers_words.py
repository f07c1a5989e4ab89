"""Words of strangers at each edge: whatever bytes a name holds, what comes out is valid there, and harmless."""

from __future__ import annotations

import datetime
import json
import logging
import os
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.test_output import on_screen, piped
from vmguard.adapters.linux import statefile
from vmguard.adapters.linux.journal import FIELDS, JournalHandler
from vmguard.cli.metrics import registry
from vmguard.core.locks.owner_record import Owner, parse_slot, slot
from vmguard.core.locks.refusal import Here, Holder, in_use
from vmguard.core.reports.metrics import Answers, families, text
from vmguard.core.sources.secrets import public, without_secrets
from vmguard.core.watchdog.events import Level, Report
from vmguard.core.words import file_name, in_utf8, printable, shell_word
from vmguard.daemon.report.history import FILE, History, read
from vmguard.daemon.report.notify_command import environment
from vmguard.errors import DaemonError, LockConflict, VmguardError
from vmguard.hook import entry
from vmguard.hook.wait_line import line as wait_line
from vmguard.protocol import wire

#: what has done harm somewhere, and anything else; bytes that are not UTF-8 come as os.fsdecode gives them
AWKWARD = [
    "\x1b[31m",
    "\n",
    "\r",
    "\0",
    "\x9b",
    "\x85",
    "\u2028",
    "\u202e",
    "\u200b",
    "\udcff",
    "\ud800",
    "\ud83d\ude00",
]
AWKWARD += ['"', "'", "\\", "\\n", "{", "}", "=", "[red]", ":skull:", "%s", "$(x)", "`", "日本", "é", "-", "..", "/"]
WORDS = st.lists(
    st.sampled_from(AWKWARD) | st.text(max_size=5) | st.binary(max_size=4).map(os.fsdecode), max_size=8
).map("".join)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def is_harmless(shown: str) -> None:
    shown.encode()
    assert all(line.isprintable() for line in shown.split("\n")), ascii(shown)


# -- the rules themselves -------------------------------------------------------------------------------------------


@given(WORDS, WORDS)
def test_a_printable_text_stays_as_it_is_also_within_another(one: str, other: str) -> None:
    is_harmless(printable(one))
    assert printable(printable(one) + other) == printable(one) + printable(other) == printable(one + other)


@given(WORDS)
def test_a_text_in_utf8_is_the_same_unless_it_could_not_be(word: str) -> None:
    shown = in_utf8({word: [word, (word,), 1, None]})
    json.dumps(shown, ensure_ascii=False).encode()
    if not any("\ud800" <= char <= "\udfff" for char in word):
        assert shown == {word: [word, [word], 1, None]}


@given(WORDS, WORDS)
def test_the_name_of_a_file_leads_nowhere_and_is_no_others(one: str, other: str) -> None:
    name = file_name(one)
    assert name.isascii()
    assert name.isprintable()
    assert "/" not in name
    assert (file_name(other) == name) == (one == other)


def test_control_the_usual_ids_are_their_own_names() -> None:
    for usual in ("libvirt-11111111-2222-3333-4444-555555555555", "proxmox-100", "bare-1.2_3"):
        assert file_name(usual) == usual


@given(WORDS)
def test_a_word_for_a_shell_is_one_word(word: str) -> None:
    quoted = shell_word(word)
    is_harmless(quoted)
    assert "\n" not in quoted
    if word.isprintable():
        assert shlex.split(quoted) == [word]
    else:
        assert quoted.startswith("$'")
        assert quoted.endswith("'")
        assert "'" not in quoted[2:-1].replace("\\'", "")


# -- messages -------------------------------------------------------------------------------------------------------


@given(WORDS)
def test_a_message_has_the_lines_of_its_author_and_no_more(word: str) -> None:
    problem = LockConflict("/a", f"disk {word} is locked", f"ask {word}", [f"  held by  : {word}"])
    assert problem.message.count("\n") == 1
    assert "\n" not in problem.hint
    assert "\n" not in VmguardError(word).message


@given(WORDS)
def test_a_refusal_keeps_its_lines_on_the_way_from_the_daemon(word: str) -> None:
    one, other = wire.pair()
    try:
        word = json.loads(json.dumps(word))  # two halves that stand side by side are one character in JSON
        problem = VmguardError(f"a {word}", word, [f"  b {word}"])
        one.send({"ok": False, "error": {"message": problem.message, "hint": problem.hint}})
        with pytest.raises(DaemonError) as caught:
            other.answer()
        assert (caught.value.message, caught.value.hint) == (problem.message, problem.hint)
    finally:
        one.close()
        other.close()


@given(WORDS, WORDS, WORDS)
def test_a_record_of_anybodys_adds_nothing_to_a_refusal(host: str, vm: str, stamp: str) -> None:
    owner = parse_slot(slot(Owner(1, host=host, vm=vm, claimed=stamp, released=stamp, uuid=stamp, path=vm)))
    assert owner is not None
    assert all(word.isprintable() and word.isascii() for word in (owner.claimed, owner.released, owner.uuid))
    now = datetime.datetime.now(datetime.UTC)
    lines, hint = in_use(vm, vm, Here("a", "b", "c"), Holder(owner, "", (), 90.0), now, 0.0)
    assert len(lines) <= 5
    for line in (*lines, hint, wait_line(vm, Holder(owner, "", (), 90.0), 1.0)):
        is_harmless(line)
        assert "\n" not in line


@quick
@given(WORDS)
def test_what_the_hook_says_is_read_on_a_terminal(capfd: pytest.CaptureFixture[str], word: str) -> None:
    problem = VmguardError(word, word, [f"  since    : {word}"])
    entry.explain(problem.message, problem.hint)
    entry.say(word)
    said = capfd.readouterr().err
    is_harmless(said)
    assert said.count("\n") == (4 if word else 3)


# -- the command line -----------------------------------------------------------------------------------------------


@quick
@given(WORDS)
def test_a_command_says_it_in_lines_of_its_own(word: str) -> None:
    out, stdout, stderr = piped()
    out.line(word)
    out.status("OK", word)
    out.table(["vm", "state"], [[word, word]])
    out.warn(word)
    problem = VmguardError(word, word)
    out.error(problem.message, problem.hint, 3)
    is_harmless(stdout.getvalue() + stderr.getvalue())
    assert stdout.getvalue().count("\n") == 4


@quick
@given(WORDS)
def test_a_table_fits_a_narrow_terminal(word: str) -> None:
    out, screen = on_screen(40, NO_COLOR="1")
    out.table(["vm", "state"], [[word, "running"]])
    is_harmless(screen.getvalue())


@quick
@given(WORDS)
def test_a_document_of_json_is_one_for_every_reader(word: str) -> None:
    out, stdout, _ = piped(as_json=True)
    out.json({"name": word, word: [word]})
    out.error(word, word, 3)
    said = stdout.getvalue()
    assert said.isascii()
    first, end = json.JSONDecoder().raw_decode(said)
    assert first == in_utf8({"name": word, word: [word]})
    repr(first).encode()
    json.loads(said[end:])


# -- what others read -----------------------------------------------------------------------------------------------


def seen(word: str, other: str) -> Answers:
    vm = {"name": word, "uuid": other, "state": other, "files": [{"guard": word}]}
    numbers = dict.fromkeys(("lease", "lease_age", "freeze_after", "locks", "unsure", "lost"), 1.0)
    mount = {"mount": word, "source": other, "phase": word, **numbers}
    history = [{"code": word, "at": other}]
    return Answers.of(word, [vm, {**vm, "name": other}, vm], {"mounts": [mount, mount], "fences": []}, history, 1.0)


@quick
@given(WORDS, WORDS)
def test_prometheus_reads_the_metrics_printed_or_served(word: str, other: str) -> None:
    printed = text(families(seen(word, other)))
    served = generate_latest(registry(lambda: seen(word, other))).decode()
    for said in (printed, served):
        is_harmless(said)
        samples = [sample for family in text_string_to_metric_families(said) for sample in family.samples]
        series = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples]
        assert len(series) == len(set(series)), "one twice would cost all of them"
        names = {sample.labels["vm"] for sample in samples if "vm" in sample.labels}
        assert names == {printable(word), printable(other)}


@quick
@given(WORDS)
def test_the_history_takes_any_name(tmp_path: Path, word: str) -> None:
    History(str(tmp_path)).add(Report(Level.INFO, "c", word), {"vm": word})
    [*_, last] = (tmp_path / FILE).read_bytes().decode().splitlines()
    assert json.loads(last)["fields"] == {"vm": in_utf8(word)}
    repr(read(str(tmp_path))[-1]).encode()


@quick
@given(WORDS)
def test_the_admins_command_gets_plain_text(word: str) -> None:
    variables = environment(Report(Level.INFO, "c", word), {"name": word, "disk": word * 5000})
    for value in variables.values():
        is_harmless(value)
        assert "\n" not in value
        assert len(os.fsencode(value)) < 128 * 1024, "the kernel's limit for one"


@quick
@given(WORDS)
def test_a_log_line_is_one_line(tmp_path: Path, word: str) -> None:
    reads, writes = os.pipe()
    try:
        handler = JournalHandler(stderr=writes, native=False)
        handler.emit(logging.LogRecord("vmguard", logging.INFO, "", 1, "VM %s: %s", (word, word), None))
        handler.close()
        said = os.read(reads, 1 << 16).decode()
    finally:
        os.close(reads)
        os.close(writes)
    is_harmless(said)
    assert said.count("\n") == 1
    assert handler.dropped == 0


@quick
@given(WORDS)
def test_the_journal_takes_any_name(tmp_path: Path, word: str) -> None:
    address = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(address)
        record = logging.LogRecord("vmguard", logging.INFO, "", 1, "%s", (word,), None)
        setattr(record, FIELDS, {"name": word})
        JournalHandler(address, native=True).emit(record)
        said = journal.recv(1 << 16)
    os.unlink(address)
    said.decode()
    assert said.startswith(b"MESSAGE=" + printable(word).encode() + b"\n")


def test_a_line_that_is_too_long_is_cut_between_characters(capfd: pytest.CaptureFixture[str]) -> None:
    handler = JournalHandler(native=False)
    for name in ("é" * 5000, "é" * 5000 + "x"):
        for start in ("", "a"):
            handler.emit(logging.LogRecord("vmguard", logging.INFO, "", 1, "%s", (start + name,), None))
    said = capfd.readouterr().err
    assert said.count("\n") == 4
    assert set(said) == set("INFO aé\n")


def test_a_traceback_keeps_its_lines(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("\x1b[31m\nVM 'web': released")
    except ValueError as problem:
        info = (type(problem), problem, problem.__traceback__)
    JournalHandler(native=False).emit(logging.LogRecord("vmguard", logging.ERROR, "", 1, "failed", (), info))
    said = capfd.readouterr().err
    is_harmless(said)
    assert said.startswith("ERROR failed\nTraceback")


@quick
@given(WORDS)
def test_the_bug_report_takes_any_text(word: str) -> None:
    repr(json.loads(without_secrets(json.dumps({"name": word, "text": [word]})))).encode()
    without_secrets(word)
    public(word).encode(errors="surrogatepass")
    public(f"json:{json.dumps({'filename': word})}")


# -- our own --------------------------------------------------------------------------------------------------------


@quick
@given(WORDS)
def test_state_files_and_messages_give_back_what_was_put_in(tmp_path: Path, word: str) -> None:
    # Two halves that stand side by side are one character in JSON, and stay that.
    expected: Any = json.loads(json.dumps(word))
    path = str(tmp_path / "state.json")
    statefile.write(path, {"name": word}, sync=False)
    assert statefile.read(path) == {"name": expected}
    one, other = wire.pair()
    try:
        one.send({"op": "ping", "name": word})
        received = other.receive()
        assert received is not None
        assert received[0]["name"] == expected
    finally:
        one.close()
        other.close()
