"""A library that is optional and missing is said to be that: it is no bug."""

from __future__ import annotations

import sys

import pytest

from vmguard.cli.main import main


def test_metrics_by_http_without_prometheus_client(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert main(["metrics", "--listen", "127.0.0.1:9"]) == 3
    said = capsys.readouterr().err
    assert "needs the Python package prometheus_client" in said
    assert "bug" not in said
