"""For all tests: the tally for tests/run, skips as failures in CI, lab logs in failure reports, measurements, and the
end of every process that a test has left."""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import processes

# How long an example takes depends on the machine; tests/run sets a timeout for each test.
hypothesis.settings.register_profile("vmguard", deadline=None)
hypothesis.settings.load_profile("vmguard")

LONG = bool(os.environ.get("VMGUARD_LONG"))
#: hours, and a fuzzer that tests/run installs for --long only, where there is one for this Python
FUZZES = LONG and importlib.util.find_spec("atheris") is not None
collect_ignore = [] if FUZZES else ["fuzz/test_fuzz.py"]

FAILED = pytest.StashKey[bool]()
IN_CI = os.environ.get("CI") == "true"
LOG_TAIL = 4000  # characters of each guest's console and log beside a failed test


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what runs with --long alone."""
    left_out = [] if LONG else [item for item in items if item.get_closest_marker("only_long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    if report.failed and "tests.lab.lab" in sys.modules:
        from tests.lab import Lab

        for lab in list(Lab.living):
            lab.keep_logs()
            for path in sorted(lab.space.logs.iterdir()):
                report.sections.append((f"lab: {path}", path.read_text(errors="replace")[-LOG_TAIL:]))
    return report


@pytest.fixture(autouse=True)
def no_process_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """End every process that a test has left. A test that passes and leaves one fails."""
    mark = processes.mark()
    yield
    left = processes.end_since(mark)
    if left and not request.node.stash.get(FAILED, False):
        pytest.fail(f"the test has left {left} processes running")


@pytest.fixture(autouse=True, scope="module")
def no_process_left_by_a_module() -> Iterator[None]:
    """End every process that a module's fixtures have left, also if one of them failed half way."""
    mark = processes.mark()
    yield
    processes.end_since(mark)


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    passed, failed, errors, skipped = (len(reporter.stats.get(k, ())) for k in ("passed", "failed", "error", "skipped"))
    if IN_CI and skipped:
        reporter.write_line(f"{skipped} skipped: in CI a skipped test is a failed one", red=True)
        failed += skipped
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    tally = os.environ.get("VMGUARD_TALLY")
    if tally:
        with Path(tally).open("a") as file:
            file.write(f"{passed} {failed + errors}\n")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Append the measurements of each run to the file VMGUARD_NUMBERS, so that an interrupted campaign keeps them."""
    path = os.environ.get("VMGUARD_NUMBERS")
    if path and report.when == "call" and "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(path).open("a") as file:
            file.writelines(f"{report.nodeid} {report.outcome}: {n}: {value}\n" for n, value in report.user_properties)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have measured (``record_property``), over all runs of a campaign."""
    numbers: dict[str, list[float]] = {}
    for report in [report for reports in terminalreporter.stats.values() for report in reports]:
        for name, value in getattr(report, "user_properties", []) if getattr(report, "when", "") == "call" else []:
            numbers.setdefault(name, []).append(value)
    if numbers:
        terminalreporter.section("measured")
    for name, values in sorted(numbers.items()):
        terminalreporter.write_line(f"{name}: {summary(values)}")


def summary(values: list[float]) -> str:
    """Summarise values in a line; with fewer than a hundred, the 99th percentile is the maximum."""
    if len(values) == 1:
        return f"{values[0]:.3g}"
    ordered = sorted(values)
    p99 = ordered[-1 - len(ordered) // 100]
    return (
        f"{len(ordered)} values, least {ordered[0]:.3g}, median {statistics.median(ordered):.3g}, p99 {p99:.3g},"
        f" most {ordered[-1]:.3g}"
    )
