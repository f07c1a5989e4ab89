"""A small HTTPS server with the answers of Proxmox's API: a real certificate, a real socket, proxmoxer's real client.

Each rule names its source: AnyEvent.pm = pve-http-server src/PVE/APIServer/AnyEvent.pm, API2 = pve-manager PVE/API2.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

TOKEN, SECRET = "audit@pve!vmguard", "8a9c5a52-6b1c-4f5e-9d0e-2f7f3d1c0a11"


class Certificates:
    """A certificate authority and a certificate for 127.0.0.1, as pvecm updatecerts creates them for a node."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.chain, self.key = folder / "pve-root-ca.pem", folder / "node.pem", folder / "node.key"
        ca_key, request, names = folder / "ca.key", folder / "node.csr", folder / "names"
        names.write_text("subjectAltName=IP:127.0.0.1\n")
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout")
        signed_by = ("-CA", self.authority, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", names)
        for command in (
            ("req", "-x509", *new_key, ca_key, "-out", self.authority, "-days", "2", "-subj", "/CN=PVE Root CA"),
            ("req", *new_key, self.key, "-out", request, "-subj", "/CN=node1"),
            ("x509", "-req", "-in", request, *signed_by, "-out", self.chain),
        ):
            subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)


class Api:
    """One cluster behind one address. Tests set its faults as attributes."""

    def __init__(self, certificates: Certificates) -> None:
        self.nodes = ["node1", "node2"]
        self.storages: list[dict[str, Any]] = []
        #: VMID -> (node, keys of its configuration)
        self.vms: dict[str, tuple[str, dict[str, Any]]] = {}
        self.dead_nodes: set[str] = set()
        #: paths that the token may not read
        self.forbidden: set[str] = set()
        #: seconds before an answer, and between two bytes of one
        self.slow = self.drip = 0.0
        self.garbage = False
        self.asked: list[str] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                api.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.chain, certificates.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Api:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0].removeprefix("/api2/json/")
        self.asked.append(request.path)
        time.sleep(self.slow)
        status, reason, value = self._of(path, request.headers.get("Authorization", ""))
        # AnyEvent.pm error: the reason stands in the status line, {"data":null} in the body
        body = b"<html>It works!</html>" if self.garbage else json.dumps({"data": value}).encode()
        request.send_response(status, reason)
        request.send_header("Content-Type", "application/json;charset=UTF-8")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        try:
            for byte in body if self.drip else ():
                request.wfile.write(bytes([byte]))
                time.sleep(self.drip)
            request.wfile.write(b"" if self.drip else body)
        except OSError:
            pass

    def _of(self, path: str, authorization: str) -> tuple[int, str, Any]:
        if authorization != f"PVEAPIToken={TOKEN}={SECRET}":
            return 401, "invalid token value!", None  # AccessControl.pm verify_token
        if path in self.forbidden:
            return 403, "Permission check failed (/, Sys.Audit)", None
        words = path.split("/")
        if path == "nodes":
            return 200, "OK", [{"node": node, "status": "online", "type": "node"} for node in self.nodes]
        if path == "storage":
            return 200, "OK", self.storages
        if path == "cluster/resources":  # silently filtered by permissions
            found = [{"vmid": int(vmid), "node": node, "type": "qemu"} for vmid, (node, _) in self.vms.items()]
            return 200, "OK", [*found, {"vmid": 900, "node": "node1", "type": "lxc"}]
        if words[0] == "nodes" and words[-1] == "config":
            if words[1] in self.dead_nodes:  # AnyEvent.pm proxy_request: a status of AnyEvent::HTTP
                return 595, "No route to host", None
            return 200, "OK", {**self.vms[words[3]][1], "digest": "0" * 40, "description": "several\nlines: of text\n"}
        return 501, f"Method 'GET /{path}' not implemented", None
