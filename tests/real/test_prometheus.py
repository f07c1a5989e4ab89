"""Metrics, alert rules and dashboard, judged by the real promtool and a real Prometheus."""

from __future__ import annotations

import http.server
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard import REPOSITORY, Guard, Vm, eventually, make_disk
from tests.support.processes import track
from tests.unit.test_metrics import SEEN
from vmguard.core.reports.metrics import families, text

pytestmark = pytest.mark.real

FOLDER = REPOSITORY / "packaging/prometheus"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def promtool(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], input=stdin, capture_output=True, text=True, check=False, cwd=FOLDER)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_promtool_finds_nothing_wrong_with_any_metric() -> None:
    checked = promtool("check", "metrics", stdin=text(families(SEEN)))
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_negative_control_promtool_sees_a_wrong_one() -> None:
    assert promtool("check", "metrics", stdin="vmguardUp 1\n").returncode != 0


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    checked = promtool("check", "rules", "vmguard.rules.yaml")
    assert checked.returncode == 0, checked.stderr


def test_a_living_daemon_is_told_of_by_file_and_by_http(tmp_path: Path) -> None:
    with Guard(tmp_path) as guard:
        web = Vm("web", [make_disk(tmp_path / "web.raw")])
        assert guard.hook("prepare", web.xml()).status == 0
        printed = guard.vmguard("metrics")
        assert printed.status == 0
        assert promtool("check", "metrics", stdin=printed.out).returncode == 0
        port = free_port()
        command = [sys.executable, "-m", "vmguard", "--config", str(guard.config), "metrics", "--listen", str(port)]
        listener = track(subprocess.Popen(command, cwd=REPOSITORY))
        try:
            assert eventually(lambda: 'vmguard_vms{state="offered"} 1' in _page(port) or 'vm="web"' in _page(port), 10)
            assert _same(_page(port)) == _same(guard.vmguard("metrics").out)
        finally:
            listener.terminate()
            listener.wait(10)


def _page(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            said: str = answer.read().decode()
            return said
    except OSError:
        return ""


def _same(page: str) -> set[tuple[str, ...]]:
    """Names and labels: prometheus-client sorts them, and writes 1.0 where we write 1."""
    lines = [line.rpartition(" ")[0] for line in page.splitlines() if line and not line.startswith("#")]
    return {tuple(sorted(re.split(r"[{},]", line))) for line in lines}


# -- the dashboard --------------------------------------------------------------------------------------------------


class _Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page = text(families(SEEN)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real Prometheus with our rules, which asks a host for its metrics each second; its port."""
    folder = tmp_path_factory.mktemp("prometheus")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(FOLDER / "vmguard.rules.yaml")],
        "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(settings))
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = track(
            subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        )
    try:
        assert eventually(lambda: bool(_query(port, "count_over_time(vmguard_up[1m]) > 3")), 60), (
            folder / "log"
        ).read_text()
        yield port
    finally:
        process.terminate()
        process.wait(30)
        server.shutdown()


def _query(port: int, expression: str) -> list[Any]:
    """What Prometheus answers; an empty list also while it does not answer at all."""
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            said = json.load(answer)
    except OSError:
        return []
    assert said["status"] == "success", said
    found: list[Any] = said["data"]["result"]
    return found


@pytest.mark.parametrize("expression", QUERIES)
def test_every_query_of_the_dashboard_has_an_answer(prometheus: int, expression: str) -> None:
    asked = expression.replace("$instance", ".*").replace("$__rate_interval", "1m")
    assert _query(prometheus, asked), asked


def test_negative_control_a_metric_that_does_not_exist_has_none(prometheus: int) -> None:
    assert _query(prometheus, "vmguard_no_such_thing") == []


def test_a_lost_lock_raises_its_alert_in_a_real_prometheus(prometheus: int) -> None:
    began = time.monotonic()
    assert eventually(lambda: bool(_query(prometheus, 'ALERTS{alertname="VmguardLockLost",alertstate="firing"}')), 20)
    assert time.monotonic() - began < 20


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    """As far as that can be told without Grafana: what its schema demands is there, and nothing overlaps."""
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(DASHBOARD)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells
