"""The server role in user space: NFS-Ganesha over the same disks, with the same power switch.

It knows no courtesy: a client that is silent for a lease has lost its locks, whether somebody wants them or not
(measured: within a lease and 6 s). Who may reclaim stands in a folder of its recovery root, one for each client; the
client's address is a part of that name, and of what a reclaim is compared with (nfs4_recovery.c).
"""

from __future__ import annotations

import re
from typing import Final

from tests.lab.errors import LabError
from tests.lab.nfs import ROOT, STATE, NfsClient, NfsServer

PROGRAM: Final = "/usr/bin/ganesha.nfsd"
RECOVERY: Final = f"{STATE}/ganesha"
CONFIG: Final = "/etc/ganesha/lab.conf"
LOG: Final = "/var/log/ganesha.log"
#: the recovery folder's name of a client: its address, then the length and the text of its own name for itself
_RECORD: Final = re.compile(r"^(?:::ffff:)?([\d.]+)-\((\d+):(.*)\)$")
_GRACE: Final = re.compile(r"NFS Server Now (NOT )?IN GRACE")


class GaneshaServer(NfsServer):
    """Storage that ganesha.nfsd serves. Its recovery records lie on the state image, as nfsd's database does.

    An admin cannot throw out one client of it, nor end its grace period: expire() and end_grace() raise LabError.
    """

    # Linux since 6.19 asks for delegations of directories; Ganesha before 9.11 answers OP_ILLEGAL (its issue 1385), and
    # a stat of a folder fails with EREMOTEIO now and then (seen with 4.3 and Linux 7.2).
    host_setting = "p=/sys/module/nfsv4/parameters/directory_delegations; [ ! -e $p ] || echo N > $p"

    def clients(self) -> list[NfsClient]:
        """Return whom it would let reclaim: the clients on its record. It has no list of those that it serves."""
        # A name that is longer than a file's may be goes on in a folder below.
        found = self.run(f"cd {RECOVERY}/v4recov/node0 && find . -type d -links 2", check=False).stdout
        names = [line.removeprefix("./").replace("/", "") for line in found.splitlines() if line != "."]
        records = [record for name in names if (record := _RECORD.match(name))]
        return [NfsClient("", record[3], record[1], {"name": record[3]}) for record in records]

    def expire(self, hostname: str) -> None:
        raise LabError(f"{self.name}: NFS-Ganesha cannot expire {hostname!r} alone")

    def in_grace(self) -> bool:
        words = _GRACE.findall(self.log())
        return bool(words) and not words[-1]

    def end_grace(self) -> None:
        raise LabError(f"{self.name}: NFS-Ganesha ends its grace period by itself")

    def log(self) -> str:
        """Return what Ganesha has logged since it was started."""
        return self.run(["cat", LOG], check=False).stdout

    def stop_serving(self) -> None:
        """Kill ganesha.nfsd alone; the guest stays up."""
        self.run("pkill -9 -x ganesha.nfsd; while pgrep -x ganesha.nfsd; do sleep 0.1; done", 20)

    def serve(self) -> None:
        """Start ganesha.nfsd and wait until it listens."""
        self.run(_START)

    def prepare(self) -> None:
        folders = " ".join(self.settings.exports)
        config = self.share / "ganesha.conf"
        config.write_text(self._config())
        self.prepare_run(f"""
            test -x {PROGRAM} || {{ echo "{PROGRAM} is missing: run tests/setup" >&2; exit 1; }}
            mkdir -p {ROOT}; mount -t ext4 -o noatime /dev/ubda {ROOT}
            mount -t ext4 -o noatime,sync /dev/ubdb {STATE}
            {f"rm -rf {RECOVERY}" if self._forget else ":"}
            mkdir -p {RECOVERY} /etc/ganesha /run/ganesha; cp /lab/ganesha.conf {CONFIG}
            mkdir -p {folders}; chmod 1777 {folders}
            {_START}
        """)  # fmt: skip

    def _config(self) -> str:
        settings = self.settings
        exports = "".join(
            _EXPORT.format(
                number=number,
                path=path,
                pseudo=path.removeprefix(ROOT),
                access="RO" if "ro" in options.split(",") else "RW",
                squash="No_Root_Squash" if "no_root_squash" in options.split(",") else "Root_Squash",
            )
            for number, (path, options) in enumerate(settings.exports.items(), 1)
        )
        return _CONFIG.format(lease=settings.lease, grace=settings.grace, recovery=RECOVERY) + exports


_CONFIG: Final = """
NFS_CORE_PARAM {{ Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; }}
NFSv4 {{
    Lease_Lifetime = {lease};
    Grace_Period = {grace};
    Minor_Versions = 1, 2;
    Delegations = false;
    RecoveryBackend = fs;
    RecoveryRoot = {recovery};
}}
"""
_EXPORT: Final = """
EXPORT {{
    Export_Id = {number};
    Path = {path};
    Pseudo = {pseudo};
    Filesystem_Id = {number}.{number};
    Access_Type = {access};
    Squash = {squash};
    SecType = sys;
    Protocols = 4;
    Transports = TCP;
    FSAL {{ Name = VFS; }}
}}
"""
#: port 2049, as /proc/net/tcp and tcp6 write it
_START: Final = f"""
    {PROGRAM} -f {CONFIG} -L {LOG} -N NIV_EVENT -p /run/ganesha.pid
    for i in $(seq 100); do
        ! grep -qh ':0801 0*:0000 0A' /proc/net/tcp /proc/net/tcp6 || exit 0
        sleep 0.1
    done
    cat {LOG} >&2; exit 1
"""
