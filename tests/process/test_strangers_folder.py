"""Commands of root's that write into a folder of another user's, who attacks while they do."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.guard import REPOSITORY, eventually, run
from vmguard.adapters.linux import atomic_file

NOBODY = 65534
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root writes what another user cannot"),
]
AS_NOBODY = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
#: puts a link to the secret in the place of whatever appears in the folder, as fast as it can
_ATTACK = """
import os, sys
folder, secret = sys.argv[1:]
print("ready", flush=True)
while True:
    for name in os.listdir(folder):
        place = os.path.join(folder, name)
        try:
            if not os.path.islink(place):
                os.unlink(place)
                os.symlink(secret, place)
        except OSError:
            pass
"""


class Place:
    """A secret of root's, and a folder that belongs to nobody."""

    def __init__(self, path: Path) -> None:
        path.chmod(0o755)
        self.secret = path / "shadow"
        self.secret.write_text("SECRET")
        self.secret.chmod(0o600)
        self.folder = path / "textfile"
        self.folder.mkdir()
        os.chown(self.folder, NOBODY, NOBODY)
        self.config = path / "vmguard.yaml"
        self.config.write_text(json.dumps({"daemon": {"run_dir": str(path / "run")}}))

    def as_nobody(self, code: str, *words: str) -> None:
        subprocess.run([*AS_NOBODY, "/usr/bin/python3", "-c", code, str(self.folder), *words], check=True)

    def vmguard(self, *words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "vmguard", "--config", str(self.config), *words]
        answer = run(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
        return answer.status, answer.out + answer.err

    def is_untouched(self) -> bool:
        status = self.secret.stat()
        told = self.secret.read_text(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_nlink
        return told == ("SECRET", 0o600, 0, 1)


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    path = tmp_path_factory.mktemp("place")
    for above in (path.parent, path.parent.parent):  # pytest keeps these from other users
        above.chmod(above.stat().st_mode | 0o011)
    found = Place(path)
    yield found
    assert found.is_untouched()


def test_links_under_every_name_that_can_be_guessed_lead_nowhere(place: Place) -> None:
    guess = """
import os, sys
folder, secret, last = sys.argv[1:]
for name in [".new", ".tmp", "", *(f".{int(last) + n}" for n in range(3000))]:
    os.symlink(secret, f"{folder}/vmguard.prom{name}")
"""
    place.as_nobody(guess, str(place.secret), Path("/proc/sys/kernel/ns_last_pid").read_text().strip())
    status, said = place.vmguard("metrics", "--output", str(place.folder / "vmguard.prom"))
    assert "Traceback" not in said
    assert status == 2, "there is no daemon, and the metrics say so"
    written = place.folder / "vmguard.prom"
    assert not written.is_symlink()
    assert "vmguard_up 0" in written.read_text()
    assert stat.S_IMODE(written.stat().st_mode) == 0o644


def test_a_fifo_at_the_place_keeps_no_metrics_waiting(place: Place) -> None:
    place.as_nobody("import os, sys; os.mkfifo(sys.argv[1] + '/vmguard.prom')")
    assert place.vmguard("metrics", "--output", str(place.folder / "vmguard.prom"))[0] == 2
    assert "vmguard_up 0" in (place.folder / "vmguard.prom").read_text()


def test_a_folder_that_became_a_link_is_not_followed(place: Place, tmp_path: Path) -> None:
    place.as_nobody("import os, sys; os.symlink(sys.argv[2], sys.argv[1] + '/below')", str(tmp_path))
    status, said = place.vmguard("metrics", "--output", str(place.folder / "below" / "cron"))
    assert (status, os.listdir(tmp_path)) == (3, [])
    assert "symbolic link of user 65534" in said


@pytest.mark.parametrize("plant", ["os.symlink('{}', place)", "os.mkfifo(place)"])
def test_a_report_replaces_nothing_and_opens_nothing(plant: str, place: Place) -> None:
    code = f"import os, sys; place = sys.argv[1] + '/report.tar.gz'; {plant.format(place.secret)}"
    place.as_nobody(code)
    with pytest.raises(FileExistsError):  # what the command writes its archive with; making one takes seconds
        atomic_file.create(str(place.folder / "report.tar.gz"), b"archive")


@pytest.fixture
def attacked(place: Place) -> Iterator[Place]:
    """Give a place whose owner attacks all the time."""
    command = [*AS_NOBODY, "/usr/bin/python3", "-c", _ATTACK, str(place.folder), str(place.secret)]
    attacker = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert attacker.stdout is not None
    try:
        assert attacker.stdout.readline() == b"ready\n"
        yield place
    finally:
        attacker.kill()
        attacker.communicate()


def _replace(path: str) -> None:
    atomic_file.write(path, b"x" * 4096, 0o644, sync=False)


def _link(path: str) -> None:
    atomic_file.link(path, "/usr/share/elsewhere")


def _append(path: str) -> None:
    atomic_file.append(path, b"x" * 4096)


def _create(path: str) -> None:
    atomic_file.create(path, b"x" * 4096)


@pytest.mark.parametrize("write", [_replace, _link, _append, _create])
def test_whatever_the_owner_swaps_in_the_meantime(write: Callable[[str], None], attacked: Place) -> None:
    place = attacked.folder / "vmguard.prom"
    swapped = 0
    for _ in range(300):
        try:
            write(str(place))
        except OSError:
            swapped += 1
    assert attacked.is_untouched()
    assert eventually(place.is_symlink, 5) or swapped, "nothing was attacked"
