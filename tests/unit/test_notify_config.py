"""The targets of messages in the configuration: what can be written, what is refused in words; no secret in either."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import pytest

from tests.unit.test_config import Write, problems_of, write
from vmguard import config
from vmguard.adapters.messages.queue import Queue, State
from vmguard.cli import config_cmd, report
from vmguard.cli.main import main
from vmguard.cli.output import Output
from vmguard.config import last_good
from vmguard.core.notices.event import make
from vmguard.core.watchdog.events import Level
from vmguard.doctor import look_notify

__all__ = ["write"]

ADMINS = """
notify:
  level: error
  targets:
    admins:
      type: mail
      to: a@example.org, root
      server: "[::1]:2525"
      user: me
      password_file: /etc/vmguard/secrets/mail
      events: vm.*, lock.lost
    pager: {type: webhook, level: error, url: "https://hooks.example.org/x", timeout: 5s, header: "X-Site: north"}
    pve: {type: proxmox}
"""


def test_targets_are_read_with_their_defaults(write: Write) -> None:
    targets = config.load([write(ADMINS)]).notify_targets()
    assert list(targets) == ["admins", "pager", "pve"]
    assert targets["admins"].to == ("a@example.org", "root")
    assert targets["admins"].events == ("vm.*", "lock.lost")
    assert (targets["pager"].timeout, targets["pager"].level) == (5.0, Level.ERROR)
    assert (targets["pve"].timeout, targets["pve"].level, targets["pve"].events) == (15.0, Level.WARNING, ("*",))


def test_a_drop_in_changes_one_key_of_a_target_and_the_last_good_one_has_them_all(write: Write, tmp_path: Path) -> None:
    loaded = config.load([write(ADMINS), write("notify: {targets: {pager: {timeout: 7s}}}", "20-site.yaml")])
    assert loaded.notify_targets()["pager"].timeout == 7.0
    assert config.load([write(last_good.text(loaded), "kept.yaml")]) == loaded


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{to: a@b}", "needs a type: mail, sendmail, webhook, apprise, proxmox"),
        ("{type: mial}", "did you mean 'mail'?"),
        ("{type: mail, to: a@b}", "of type mail needs server"),
        ("{type: mail, server: m}", "of type mail needs to"),
        ("{type: mail, to: a@b, server: m, url: 'http://x/'}", "is not for a target of type mail"),
        ("{type: mail, to: a@b, server: m, user: me}", "needs both user and password_file"),
        ("{type: mail, to: a@b, server: m, user: u, password_file: /p, tls: none}", "would show the password"),
        ("{type: mail, to: '-oQ/tmp@b', server: m}", "is not a mail address"),
        ('{type: mail, to: "a@b\\nBcc: c@d", server: m}', "is not a mail address"),
        ("{type: webhook}", "needs either url or url_file"),
        ("{type: webhook, url: 'http://x/', url_file: /u}", "needs either url or url_file"),
        ("{type: webhook, url: 'http://me:word@x/'}", "without user, password and query"),
        ("{type: webhook, url: 'http://x/?token=word'}", "without user, password and query"),
        ("{type: webhook, url: 'file:///etc/shadow'}", "is not a URL of http or https"),
        ("{type: webhook, url: 'http://x/', header: \"A: b\\r\\nC: d\"}", "is not a header"),
        ("{type: webhook, url: 'http://x/', token_file: word}", "a secret does not belong into this file"),
        ("{type: apprise}", "of type apprise needs url_file"),
        ("{type: proxmox, events: 'VM FREEZE'}", "is not the code of an event"),
        ("{type: proxmox, evnets: 'vm.*'}", "did you mean 'events'?"),
        ("{type: proxmox, to: [a, b]}", "takes a value"),
        ("[1, 2]", "must hold lines such as 'type: mail'"),
    ],
)
def test_what_cannot_work_is_refused_in_words_and_without_the_secret(write: Write, entry: str, words: str) -> None:
    [problem] = problems_of(write(f"notify:\n  targets:\n    x: {entry}\n"))
    assert words in problem
    assert problem.startswith("vmguard.yaml:3: notify.targets.x")
    assert "word" not in problem.replace("password", "")


@pytest.mark.parametrize("name", ["../x", "a b", "", "x" * 40, "-x"])
def test_the_name_of_a_target_becomes_a_folder_and_leads_nowhere(write: Write, name: str) -> None:
    [problem] = problems_of(write(json.dumps({"notify": {"targets": {name: {"type": "proxmox"}}}})))
    assert "is not the name of a target" in problem


def test_no_more_targets_than_anybody_needs(write: Write) -> None:
    targets = {f"t{number}": {"type": "proxmox"} for number in range(17)}
    [problem] = problems_of(write(json.dumps({"notify": {"targets": targets}})))
    assert "is one too many" in problem


# -- secrets ----------------------------------------------------------------------------------------------------------


def checked(path: str) -> tuple[int, str]:
    parser, stream = argparse.ArgumentParser(), io.StringIO()
    config_cmd.add_arguments(parser)
    args = parser.parse_args(["check"])
    args.config = [path]
    return config_cmd.run(args, Output(stream)), stream.getvalue()


@pytest.fixture
def word_file(tmp_path: Path) -> Path:
    path = tmp_path / "word"
    path.write_text("correct-horse\n")
    path.chmod(0o600)
    return path


def with_token(path: Path) -> str:
    target = {"type": "webhook", "url": "http://127.0.0.1/x", "token_file": str(path)}
    return json.dumps({"notify": {"queue_dir": str(path.parent / "queue"), "targets": {"pager": target}}})


def test_config_check_and_doctor_refuse_a_secret_that_others_may_read(write: Write, word_file: Path) -> None:
    path = write(with_token(word_file))
    assert checked(path) == (0, f"OK: {path}\n")
    assert look_notify.look(config.load([path])) == ()
    word_file.chmod(0o644)
    status, said = checked(path)
    assert status == 2
    assert "notify.targets.pager.token_file: " in said
    assert "others may read it (mode 0644)" in said
    assert "messages would not be delivered" in said
    [(name, why, mend)] = look_notify.look(config.load([path]))
    assert (name, mend) == ("pager", f"chmod 600 {word_file}")
    assert "mode 0644" in why


def test_the_doctor_names_a_target_whose_last_message_was_not_taken(write: Write, word_file: Path) -> None:
    loaded = config.load([write(with_token(word_file))])
    queue = Queue(loaded.notify.queue_dir, "pager")
    queue.add([make("", "vm.freeze", Level.ERROR, "x", {}, "")], ())
    queue.save(State(problem="the server answered 503", failing_since="2026-11-28T09:00:00Z"))
    [(_, why, mend)] = look_notify.look(loaded)
    assert "since 2026-11-28T09:00:00Z (1 wait): the server answered 503" in why
    assert mend == "vmguard notify test pager"


def test_a_bug_report_says_that_there_is_a_target_and_no_more(write: Write) -> None:
    args = argparse.Namespace(config=[write(ADMINS)])
    said = report._config(args)
    assert "notify.targets.pager: webhook\n" in said
    assert "hooks.example.org" not in said


def test_without_a_target_a_test_says_how_to_add_one(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write("hook: {}\n")
    assert main(["notify", "test", "--config", path]) == 3
    assert "notify.targets" in capsys.readouterr().err
    assert main(["notify", "status", "--config", path]) == 0
    path = write(ADMINS)
    assert main(["notify", "test", "pagre", "--config", path]) == 3
    assert "did you mean 'pager'?" in capsys.readouterr().err
