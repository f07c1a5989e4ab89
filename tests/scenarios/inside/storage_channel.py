"""In guests: the way from a hypervisor to the storage server's administration, in the place of ssh.

storage_channel.py serve PORT                     on the server: starts python3 -I - for each question
storage_channel.py ask ADDRESS PORT WORD...       on a hypervisor: what `transport: command` starts
"""

from __future__ import annotations

import socket
import subprocess
import sys


def serve(port: int) -> None:
    with socket.create_server(("", port)) as listener:
        while True:
            peer, _ = listener.accept()
            with peer:
                data = b""
                while piece := peer.recv(1 << 16):
                    data += piece
                words, _, program = data.partition(b"\n")
                command = ["/usr/bin/python3", "-I", "-", *words.decode().split()]
                done = subprocess.run(command, input=program, stdout=subprocess.PIPE, check=False)
                peer.sendall(done.stdout)


def ask(address: str, port: int, words: list[str]) -> None:
    with socket.create_connection((address, port), 3.0) as server:
        server.settimeout(None)
        server.sendall(" ".join(words).encode() + b"\n" + sys.stdin.buffer.read())
        server.shutdown(socket.SHUT_WR)
        while piece := server.recv(1 << 16):
            sys.stdout.buffer.write(piece)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        ask(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
