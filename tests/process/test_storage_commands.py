"""`vmguard storage` against a command that answers as a server does; the way there: deadlines, bounds, strangers."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard import eventually
from tests.support.server_documents import client, document, encoded, in_grace, lock
from vmguard.adapters.servers import cache, probe, transport
from vmguard.adapters.servers.knfsd import KnfsdServer, parse
from vmguard.adapters.servers.transport import Way
from vmguard.cli.main import main
from vmguard.core.servers.facts import Client
from vmguard.errors import ServerError

Capture = pytest.CaptureFixture[str]
Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(tmp_path: Path, capsys: Capture) -> Ask:
    """Run a command about a server that answers with a document; return the exit status and what was printed."""

    def run(made: dict[str, Any] | bytes, *words: str) -> tuple[int, str]:
        (tmp_path / "answer").write_bytes(made if isinstance(made, bytes) else encoded(made))
        (tmp_path / "run").mkdir(exist_ok=True)
        servers = {"nas": {"transport": "command", "command": f"sh -c 'cat {tmp_path}/answer'"}}
        config = {"servers": servers, "daemon": {"run_dir": str(tmp_path / "run")}}
        (tmp_path / "c.yaml").write_text(json.dumps(config))
        status = main([*words, "--config", str(tmp_path / "c.yaml")])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


# -- the commands -----------------------------------------------------------------------------------------------------


def test_status_of_a_server_that_serves(ask: Ask) -> None:
    status, said = ask(document(), "storage", "status")
    assert status == 0
    assert "OK: nas: serving, no grace period" in said
    assert "lease 90 s, grace 90 s; new locks 90 s after its start at the latest" in said
    assert "hyp-a" in said


def test_status_in_grace_names_who_is_missing(ask: Ask) -> None:
    status, said = ask(in_grace(["hyp-a", "hyp-b", "hyp-c"], ["hyp-b"]), "storage", "status")
    assert status == 1
    assert "1 of 3 have reclaimed; missing: hyp-a, hyp-c" in said
    assert "new locks wait 78 s more at most" in said
    assert "do now:" in said


@pytest.mark.parametrize("made", [document(), in_grace(["hyp-a", "hyp-b"], [])])
@pytest.mark.parametrize("words", [["status"], ["locks"], ["doctor"], ["plan", "reboot", "--down", "5m"], ["explain"]])
def test_what_is_printed_fits_a_terminal(ask: Ask, made: dict[str, Any], words: list[str]) -> None:
    _, said = ask(made, "storage", *words)
    table = [line for line in said.splitlines() if line.startswith(("HOST", "hyp-", "VM "))]
    assert [line for line in table if len(line) > 80] == []


def test_without_a_configured_server_it_is_said_how(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "c.yaml").write_text("")
    assert main(["storage", "status", "--config", str(tmp_path / "c.yaml")]) == 3
    assert "no storage server is configured" in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_unknown_in_words(ask: Ask) -> None:
    status, said = ask(b"Permission denied (publickey).\n", "storage", "status")
    assert status == 3
    assert "no JSON document; it begins with 'Permission denied" in said


def test_words_of_a_stranger_are_shown_harmlessly(ask: Ask) -> None:
    hostile = "hyp-a\x1b[2J\u202e\nOK: all is well"
    made = document(
        [client("hyp-a", 3, lock(131, hostile)), client(hostile, 4)], kernel="Linux\x1b]0;x\x07", host=hostile
    )
    for words in (["status", "-v"], ["locks"], ["doctor", "-v"], ["explain"], ["plan", "reboot", "--down", "9s"]):
        _, said = ask(made, "storage", *words)
        assert "\x1b" not in said
        assert "\u202e" not in said
        assert "\nOK: all is well" not in said


def test_locks_are_listed_by_host(ask: Ask) -> None:
    made = document([client("hyp-a", 3, lock(131, "vm/web.raw")), client("hyp-b", 4, lock(132, "vm/db.raw"))])
    status, said = ask(made, "storage", "locks", "--host", "hyp-b", "--json")
    assert status == 0
    [row] = json.loads(said)["locks"]
    assert (row["host"], row["inode"], row["file"]) == ("hyp-b", 132, "vm/db.raw")


def test_the_doctor_exits_with_the_worst(ask: Ask) -> None:
    assert ask(document(), "storage", "doctor")[0] == 0
    status, said = ask({**document(), "nfsdcld": False}, "storage", "doctor")
    assert status == 2
    assert "server.tracker" in said


def test_a_release_is_a_dry_run_and_is_refused_in_words(ask: Ask) -> None:
    made = document([client("hyp-c", idle=200, state="courtesy", address="[fd00:dead::1]:791")])
    status, said = ask(made, "storage", "release", "--host", "hyp-c", "--yes")
    assert status == 2
    assert "nobody says that it is off" in said
    status, said = ask(made, "storage", "release", "--host", "hyp-c", "--host-is-off", "hyp-c")
    assert "dry run: nothing was changed" in said
    assert "would expire" in said


# -- the way there ----------------------------------------------------------------------------------------------------


def test_the_probe_answers_on_this_machine() -> None:
    way = transport.way("here", "local", "", (), "")
    found = parse(way.ask(["report"], 20.0))
    assert found.version.startswith("Linux ")
    assert found.unknown, "there is no NFS server here, and it says so"


def test_a_command_that_hangs_is_ended_with_all_of_its_session() -> None:
    began = time.monotonic()
    way = Way("nas", ["sh", "-c", "sleep 983 & sleep 983"])
    with pytest.raises(ServerError) as silent:
        way.ask(["report"], 0.5)
    assert time.monotonic() - began < 5
    assert "nas gave no answer about itself within 0.5 s" in silent.value.message
    assert eventually(lambda: subprocess.run(["pgrep", "-fx", "sleep 983"], check=False).returncode == 1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sh", "-c", "head -c 20000000 /dev/zero"], "more than 16 MiB"),
        (["sh", "-c", "printf '\\033[2Jno\\n' >&2; exit 255"], "ended with 255: \\x1b[2Jno"),
        (["/nonexistent/ssh"], "No such file"),
    ],
)
def test_what_goes_wrong_on_the_way_is_said(words: list[str], says: str) -> None:
    with pytest.raises(ServerError) as refused:
        Way("nas", words).ask(["report"], 10.0)
    assert says in refused.value.message


@pytest.mark.parametrize("word", ["", "a b", "$(id)", "-oProxyCommand=x", "a;b", "a\n"])
def test_an_order_is_of_harmless_words(word: str) -> None:
    with pytest.raises(ServerError):
        Way("nas", ["true"]).ask(["release", word, "0x1"], 1.0)


def test_ssh_asks_no_question(tmp_path: Path) -> None:
    words = transport.ssh("root@nas", str(tmp_path))
    assert "BatchMode=yes" in words
    assert words[-5:] == ["--", "root@nas", "python3", "-I", "-"]
    assert any(word.startswith(f"ControlPath={tmp_path}") for word in words)


def test_a_release_needs_an_account_of_its_own() -> None:
    server = KnfsdServer("nas", Way("nas", ["true"]), None, 1.0)
    with pytest.raises(ServerError, match="release_destination"):
        server.release(Client("3", "0x1", "Linux NFSv4.2 hyp-c", "192.0.2.1:791", "courtesy"))


def test_a_forced_command_that_only_reports_is_no_release(tmp_path: Path) -> None:
    (tmp_path / "answer").write_bytes(encoded(document()))
    way = Way("nas", ["sh", "-c", f"cat {tmp_path}/answer"])
    server = KnfsdServer("nas", way, way, 10.0)
    with pytest.raises(ServerError, match="asked to block and answered something else"):
        server.block("192.0.2.1")


# -- the probe --------------------------------------------------------------------------------------------------------


def test_the_probe_needs_nothing_of_ours_and_no_new_python() -> None:
    text = Path(probe.__file__).read_text()
    ast.parse(text, feature_version=(3, 6))
    assert "import vmguard" not in text
    assert "from vmguard" not in text


@pytest.mark.parametrize("words", [["nonsense"], ["release", "zz", "0x1"], ["block", "nas"], ["block", "127.0.0.1"]])
def test_the_probe_refuses_in_json(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-I", probe.__file__, *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["problem"]


def test_a_forced_command_may_take_its_order_from_ssh() -> None:
    environment = {"SSH_ORIGINAL_COMMAND": "python3 -I - block nas", "PATH": "/usr/bin"}
    command = [sys.executable, "-I", probe.__file__, "--asked"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout)["problem"] == "this is no address"


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_an_answer_is_kept_and_counts_while_it_is_fresh(tmp_path: Path) -> None:
    cache.keep(str(tmp_path), "nas/../x", parse(encoded(in_grace(["hyp-a"], []))))
    [file] = (tmp_path / "servers").iterdir()
    assert file.parent == tmp_path / "servers"
    kept = cache.fresh(str(tmp_path), "nas/../x", 60.0)
    assert kept is not None
    assert (kept.times.lease, kept.grace_left) == (90.0, 78.0)
    assert kept.free_in(kept.at + 8.0) == 70.0
    assert cache.fresh(str(tmp_path), "nas/../x", 0.0) is None
    assert cache.fresh(str(tmp_path), "other", 60.0) is None


def test_an_answer_of_another_boot_or_of_nobody_counts_for_nothing(tmp_path: Path) -> None:
    cache.keep(str(tmp_path), "nas", parse(encoded(document())))
    path = Path(cache.path_of(str(tmp_path), "nas"))
    path.write_text(path.read_text().replace('"boot": "', '"boot": "x'))
    assert cache.fresh(str(tmp_path), "nas", 60.0) is None
    path.write_text("{")
    assert cache.fresh(str(tmp_path), "nas", 60.0) is None
