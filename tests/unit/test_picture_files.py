"""`vmguard history --html --svg` and `vmguard report --merge`: what they read, write and refuse."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from pathlib import Path

import pytest

from tests.support.picture_histories import in_file, outage
from vmguard.adapters.linux import clock_sync
from vmguard.cli import picture_files
from vmguard.cli.main import main
from vmguard.core.words import file_name


def archive(path: Path, host: str, names: list[str], ahead: float = 0.0, clock: str = "") -> str:
    """Write what `vmguard report` would have packed on a host."""
    folder = f"vmguard-report-{file_name(host)}-20261120-130500"
    members = {"version.txt": "vmguard 1\n", "history.jsonl": in_file(outage(names, ahead=ahead))}
    members |= {"clock.json": clock} if clock else {}
    with tarfile.open(path, "w:gz") as packed:
        for name, text in members.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(text.encode())
            packed.addfile(entry, io.BytesIO(text.encode()))
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(["report", *words])
    said = capsys.readouterr()
    return status, said.out + said.err


def test_two_reports_become_one_table_and_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = json.dumps({"at": "x", "boottime": 1, "sync": {"disciplined": False, "max_error_s": 16}})
    a = archive(tmp_path / "a.tar.gz", "hyp-a", ["web"], clock=clock)
    b = archive(tmp_path / "b.tar.gz", "hyp-b.example", ["db"], ahead=1)
    html, svg = tmp_path / "p.html", tmp_path / "p.svg"
    status, said = run(capsys, "--merge", a, b, "--html", str(html), "--svg", str(svg))
    assert status == 0
    assert "hyp-a: 14 lines; placed by its own clock" in said
    assert "nobody disciplines its clock (NTP): it may be off by any amount" in said
    assert "hyp-b.example" in said
    assert said.index("VM 'web' is frozen") < said.index("VM 'db' is frozen")
    text = html.read_text()
    assert text.count("<h2") == 1, "the same incident, side by side"
    assert "hyp-b.example" in text
    assert svg.read_text().startswith("<svg")
    assert stat.S_IMODE(html.stat().st_mode) == 0o600


def test_a_plain_history_is_named_by_its_admin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "h.jsonl").write_text(in_file(outage(["web"])))
    status, said = run(capsys, "--merge", f"hyp-z={tmp_path}/h.jsonl", "--offset", "hyp-z=-2.5")
    assert status == 0
    assert "hyp-z: 14 lines" in said
    assert "moved by -2.5 s, as was asked for" in said


def test_the_same_host_twice_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "h.jsonl").write_text(in_file(outage(["web"])))
    one = f"x={tmp_path}/h.jsonl"
    assert "x (2): 14 lines" in run(capsys, "--merge", one, one)[1]


def test_json_has_the_shape_of_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = archive(tmp_path / "a.tar.gz", "hyp-a", ["web"])
    html = tmp_path / "p.html"
    assert json.loads(run(capsys, "--merge", a, "--html", str(html), "--json")[1]) == {
        "schema": 1,
        "file": str(html),
        "parts": {"hyp-a": 14},
    }


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--merge", "/nowhere"], "No such file"),
        (["--merge", "FOLDER/garbage"], "has no line of a history"),
        (["--merge", "FOLDER/other.tar.gz"], "it has no history.jsonl"),
        (["--merge", "FOLDER/cut.tar.gz"], "cannot be read"),
        (["--merge", "FOLDER/good.tar.gz", "--offset", "hyp-x=1"], "is not HOST=SECONDS"),
        (["--merge", "FOLDER/good.tar.gz", "--output", "x"], "--output is for a new report"),
        (["--merge", "FOLDER/good.tar.gz", "--html", "/dev/null"], "is no regular file"),
        (["--merge", "FOLDER/good.tar.gz", "--html", "FOLDER/link"], "is no regular file"),
        (["--merge", "FOLDER/good.tar.gz", "--html", "FOLDER/none/x"], "cannot be written"),
        (["--html", "x"], "need --merge"),
    ],
)
def test_what_cannot_be_done_is_said(
    words: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive(tmp_path / "good.tar.gz", "hyp-a", ["web"])
    (tmp_path / "garbage").write_bytes(os.urandom(50) + b"\n")
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "good.tar.gz").read_bytes()[:400])
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as packed:
        packed.addfile(tarfile.TarInfo("x/y"), io.BytesIO(b""))
    status, said = run(capsys, *[word.replace("FOLDER", str(tmp_path)) for word in words])
    assert status != 0
    assert complaint in said
    assert "this is a bug" not in said
    assert not (tmp_path / "elsewhere").exists()


def test_an_archive_cannot_take_all_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Members that claim to be huge are not read."""
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz") as packed:
        entry = tarfile.TarInfo("vmguard-report-a-20261120-130500/zeros")
        entry.size = 300 << 20
        packed.addfile(entry, _Zeros(entry.size))
    status, said = run(capsys, "--merge", str(tmp_path / "bomb.tar.gz"))
    assert (status != 0, "larger than a report can be" in said) == (True, True)


class _Zeros(io.RawIOBase):
    """A file of so many zeros."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int = -1) -> bytes:
        part = min(size, self._left) if size >= 0 else self._left
        self._left -= part
        return bytes(part)


def test_the_history_of_this_host_is_drawn_beside_its_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [{**line, "boottime": line["boottime"] / 1e6} for line in outage(["web", "db"])]
    (folder / "history.jsonl").write_text(in_file(lines))
    (tmp_path / "c.yaml").write_text(f"daemon: {{run_dir: {folder}}}\n")
    ours = ["--config", str(tmp_path / "c.yaml")]
    html = tmp_path / "p.html"
    main(["history", *ours, "web", "--html", str(html)])
    said = capsys.readouterr().out
    assert f"picture: {html}" in said
    text = html.read_text()
    assert "only VM &#39;web&#39; and its storage" in text
    assert os.uname().nodename in text
    main(["history", *ours, "--since", "1ms"])
    assert "nothing in that time" in capsys.readouterr().out


def test_the_kernel_says_what_the_clock_is_worth() -> None:
    sync = clock_sync.read()
    assert sync is None or sync.max_error_s >= 0
    assert picture_files.clock_words(None) == ""
    assert "at most 0.05 s" in picture_files.clock_words(clock_sync.ClockSync(True, 0.05))
    assert "any amount" in picture_files.clock_words(clock_sync.ClockSync(False, 16.0))
