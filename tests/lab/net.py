"""The lab's network: a bridge in the lab's own namespace and a tap per guest. It has no route out."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.lab.space import Space

BRIDGE = "br0"
SUBNET = "10.77.0"
#: no port's own: it moves between guests
FLOATING = f"{SUBNET}.200"


@dataclass(frozen=True)
class Port:
    """A guest's port on the bridge. `mac` None: a random one at each boot."""

    tap: str
    address: str
    mac: str | None

    @property
    def cidr(self) -> str:
        return f"{self.address}/24"

    def mac_now(self) -> str:
        return self.mac or ":".join(["02", *(f"{random.randrange(256):02x}" for _ in range(5))])


class Network:
    def __init__(self, space: Space) -> None:
        self._space = space
        self._count = 0
        space.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"])
        self._ip(f"link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0")
        self._ip(f"link set {BRIDGE} up")

    def add_port(self, random_mac: bool) -> Port:
        self._count += 1
        number = self._count
        port = Port(
            tap=f"tap{number}",
            address=f"{SUBNET}.{10 + number}",
            mac=None if random_mac else f"02:76:67:00:00:{number:02x}",
        )
        self._ip(f"tuntap add dev {port.tap} mode tap")
        self._ip(f"link set {port.tap} up")
        self.connect(port)
        return port

    def connect(self, port: Port) -> None:
        self._ip(f"link set {port.tap} master {BRIDGE}")

    def disconnect(self, port: Port) -> None:
        self._ip(f"link set {port.tap} nomaster")

    def _ip(self, words: str) -> None:
        self._space.run(["ip", *words.split()])
