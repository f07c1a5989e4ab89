"""In a guest: many small VMs that write to a share, each claimed through the hook as libvirt would.

    writers.py COUNT SHARE WRITER       prints "ready" when all are claimed and write, then each name that had an error;
                                        before, "again NAME WHY" for a claim that was refused once

A VM's QEMU is a C program of a few pages (WRITER_SOURCE): five hundred of them fit into a guest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid

HOOK = "/etc/libvirt/hooks/qemu"
RUN_DIR = "/run/libvirt/qemu"
#: writes one page every four seconds, so that the lab's storage answers five hundred of them without a queue; an error
#: ends it with status 1
WRITER_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **words)
{
    void *page;
    int fd = open(words[1], O_RDWR | O_DIRECT);
    if (fd < 0 || posix_memalign(&page, 4096, 4096)) return 2;
    memset(page, 'w', 4096);
    for (;;) {
        if (pwrite(fd, page, 4096, 0) != 4096) return 1;
        sleep(4);
    }
}
"""
XML = (
    "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><devices><disk type='file' device='disk'>"
    "<driver name='qemu' type='raw' cache='none'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>"
    "</devices></domain>"
)


def claim(name: str, identity: str, disk: str) -> None:
    with open(disk, "wb") as stream:
        stream.truncate(1 << 20)
    xml = XML.format(name=name, uuid=identity, disk=disk)
    for attempt in range(2):
        answer = subprocess.run([HOOK, name, "prepare", "begin", "-"], input=xml, text=True, capture_output=True)
        if not answer.returncode:
            return
        if attempt:
            sys.exit(f"{name}: {answer.stderr}")
        print("again", name, " ".join(answer.stderr.split()), flush=True)


def main() -> int:
    count, share, writer = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    os.makedirs(RUN_DIR, exist_ok=True)
    running = {}
    for number in range(count):
        name, identity, disk = f"vm{number}", str(uuid.uuid4()), f"{share}/vm{number}.raw"
        claim(name, identity, disk)
        running[name] = subprocess.Popen([writer, disk, "-uuid", identity])
        with open(f"{RUN_DIR}/{name}.pid", "w") as stream:
            stream.write(f"{running[name].pid}\n")
    print("ready", flush=True)
    while running:
        for name, process in list(running.items()):
            if process.poll() is not None:
                print(name, process.returncode, flush=True)
                del running[name]
        time.sleep(0.5)
    return 0


if __name__ == "__main__":
    sys.exit(main())
