"""Each alert fires in its case, and no other one does: judged by promtool, with scrapes of which some fail.

A host is scraped every 15 s. Single scrapes fail now and then, and four in a row shortly before the eyes are on it; a
failed scrape ends every series, as Prometheus has it (a stale marker), and what happens then is seen afterwards only.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from tests.support.guard import REPOSITORY

pytestmark = pytest.mark.real

RULES = REPOSITORY / "packaging/prometheus/vmguard.rules.yaml"
#: of every alert; what the others do is asked at the same moments
ALERTS = [rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]]
STEP_S = 15
STEPS = 800
#: when it is looked: two hours and ten minutes after the beginning, and an hour later
NOW, LATER = 520, 790
#: failed scrapes
GAPS = {*range(20, STEPS, 20), *range(500, 504)} - {NOW, LATER}
#: in the middle of the long gap, in seconds
IN_THE_GAP = 501.5 * STEP_S

Value = Callable[[int], float | None]
VM = 'vm="web",uuid="u"'
MOUNT = 'mount="/srv/vm",server="nas:/vm"'


def always(value: float) -> Value:
    return lambda step: value


def since(begin: int, value: float, before: float | None = 0.0) -> Value:
    return lambda step: value if step >= begin else before


def until(end: int, value: float) -> Value:
    return lambda step: value if step < end else None


def seconds(step: int) -> float:
    return float(step * STEP_S)


def event(name: str) -> str:
    return f'vmguard_last_event_timestamp_seconds{{event="{name}"}}'


EVENTS = [event(name) for name in ("fence.done", "start.refused", "vm.disk-replaced", "mount.identity-stolen")]
HEALTHY: dict[str, Value] = {
    "up": always(1),
    "vmguard_up": always(1),
    "vmguard_metrics_timestamp_seconds": seconds,
    "vmguard_config_valid": always(1),
    "vmguard_fenced_lately": always(0),
    "vmguard_disarmed_until_timestamp_seconds": always(0),
    "vmguard_open_files": always(50),
    "vmguard_open_files_limit": always(65536),
    'vmguard_vms{state="running"}': always(1),
    'vmguard_vms{state="conflict"}': always(0),
    f"vmguard_vm_frozen{{{VM}}}": always(0),
    f"vmguard_vm_fencing{{{VM}}}": always(0),
    f"vmguard_vm_without_hook{{{VM}}}": always(0),
    f'vmguard_vm_files{{{VM},guard="pinned"}}': always(2),
    f'vmguard_vm_files{{{VM},guard="lost"}}': always(0),
    f"vmguard_mount_lease_seconds{{{MOUNT}}}": always(90),
    f"vmguard_mount_confirmed_timestamp_seconds{{{MOUNT}}}": lambda step: seconds(step) - 9,
    f"vmguard_mount_locks_lost{{{MOUNT}}}": always(0),
    **dict.fromkeys(EVENTS, always(0)),
}
GONE = {name: until(400, 1) for name in HEALTHY if name != "up"}
FENCED = {
    event("fence.done"): since(504, IN_THE_GAP),
    **{name: until(500, value(0) or 0) for name, value in HEALTHY.items() if VM in name},
}
#: case -> what is different there, and the alerts that fire then and an hour later
CASES: dict[str, tuple[Mapping[str, Value], set[str], set[str]]] = {
    "healthy": ({}, set(), set()),
    "a host that never had vmguard": (dict.fromkeys(GONE, until(0, 0)), set(), set()),
    "the daemon is down": ({"vmguard_up": since(505, 0, 1)}, {"VmguardDown"}, {"VmguardDown"}),
    "the daemon is down, a VM is frozen": (
        {"vmguard_up": since(505, 0, 1), f"vmguard_vm_frozen{{{VM}}}": since(504, 1)},
        {"VmguardDown", "VmguardVmFrozen", "VmguardVmFrozenWhileDown"},
        {"VmguardDown", "VmguardVmFrozen", "VmguardVmFrozenWhileDown"},
    ),
    "it tells nothing any more": (GONE, {"VmguardAbsent"}, {"VmguardAbsent"}),
    "nobody writes the file": (
        {"vmguard_metrics_timestamp_seconds": lambda step: seconds(min(step, 490))},
        {"VmguardMetricsStale"},
        {"VmguardMetricsStale"},
    ),
    "a lock is lost": (
        {f"vmguard_mount_locks_lost{{{MOUNT}}}": lambda step: 2.0 * (step in range(515, 530))},
        {"VmguardLockLost"},
        set(),
    ),
    "a VM is being fenced": (
        {f"vmguard_vm_fencing{{{VM}}}": lambda step: 1.0 * (step in range(515, 530))},
        {"VmguardVmFencing"},
        set(),
    ),
    "a VM was fenced while nobody looked": (
        {**FENCED, "vmguard_fenced_lately": since(504, 1)},
        {"VmguardVmWasFenced", "VmguardFencedInTheLastHour"},
        {"VmguardVmWasFenced"},
    ),
    "it was acknowledged at once": (FENCED, {"VmguardFencedInTheLastHour"}, set()),
    "the host was reset after the fence": (
        {**FENCED, event("fence.done"): lambda step: IN_THE_GAP if 504 <= step < 510 else 0.0},
        {"VmguardFencedInTheLastHour"},
        set(),
    ),
    "a VM is frozen": ({f"vmguard_vm_frozen{{{VM}}}": since(510, 1)}, {"VmguardVmFrozen"}, {"VmguardVmFrozen"}),
    "a conflict": ({'vmguard_vms{state="conflict"}': since(510, 1)}, {"VmguardConflict"}, {"VmguardConflict"}),
    "the server is silent": (
        {f"vmguard_mount_confirmed_timestamp_seconds{{{MOUNT}}}": lambda step: seconds(min(step, 512)) - 9},
        {"VmguardLeaseLate"},
        {"VmguardLeaseLate"},
    ),
    "two hosts of one name": (
        {event("mount.identity-stolen"): since(504, IN_THE_GAP)},
        {"VmguardIdentityStolen"},
        set(),
    ),
    "a disk is replaced": ({event("vm.disk-replaced"): since(504, IN_THE_GAP)}, {"VmguardDiskReplaced"}, set()),
    "the hook is not called": (
        {f"vmguard_vm_without_hook{{{VM}}}": since(510, 1)},
        {"VmguardHookNotCalled"},
        {"VmguardHookNotCalled"},
    ),
    "a start is refused": ({event("start.refused"): since(504, IN_THE_GAP)}, {"VmguardStartRefused"}, set()),
    "disarmed": (
        {"vmguard_disarmed_until_timestamp_seconds": since(250, 99999)},
        {"VmguardDisarmed"},
        {"VmguardDisarmed"},
    ),
    "disarmed for half an hour": (
        {"vmguard_disarmed_until_timestamp_seconds": lambda step: 9999.0 * (step in range(410, 530))},
        set(),
        set(),
    ),
    "the configuration is wrong": (
        {"vmguard_config_valid": since(505, 0, 1)},
        {"VmguardConfigInvalid"},
        {"VmguardConfigInvalid"},
    ),
    "few descriptors": (
        {"vmguard_open_files": since(505, 50000, 50)},
        {"VmguardFewDescriptors"},
        {"VmguardFewDescriptors"},
    ),
    "a file has no lock": (
        {f'vmguard_vm_files{{{VM},guard="lost"}}': since(490, 1)},
        {"VmguardVmNotPinned"},
        {"VmguardVmNotPinned"},
    ),
}


def written(name: str, value: Value) -> dict[str, str]:
    """A series as promtool takes it."""
    labels = 'instance="a",job="node"'
    told = [value(step) for step in range(STEPS)]
    words = [
        "_"
        if number is None and (step == 0 or told[step - 1] is None)
        else "stale"
        if number is None or (step in GAPS and name != "up")
        else f"{number:.15g}"
        for step, number in enumerate(told)
    ]
    series = name.replace("{", f"{{{labels},") if "{" in name else f"{name}{{{labels}}}"
    return {"series": series, "values": " ".join(words)}


def firing(step: int, alerts: set[str]) -> dict[str, object]:
    return {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{step * STEP_S}s",
        "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(alerts)],
    }


def judged(folder: Path, case: str, rules: str) -> subprocess.CompletedProcess[str]:
    """Have promtool play a case."""
    (folder / "rules.yaml").write_text(rules)
    different, now, later = CASES[case]
    test = {
        "interval": f"{STEP_S}s",
        "input_series": [written(name, value) for name, value in {**HEALTHY, **different}.items()],
        "promql_expr_test": [firing(NOW, now), firing(LATER, later)],
    }
    played = {"rule_files": ["rules.yaml"], "evaluation_interval": f"{STEP_S}s", "tests": [test]}
    (folder / "test.yaml").write_text(json.dumps(played))
    command = ["promtool", "test", "rules", "test.yaml"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


@pytest.mark.parametrize("case", CASES)
def test_in_this_case_these_alerts_fire_and_no_others(case: str, tmp_path: Path) -> None:
    done = judged(tmp_path, case, RULES.read_text())
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_case() -> None:
    assert {alert for _, now, _ in CASES.values() for alert in now} == set(ALERTS)


@pytest.mark.parametrize("case", ["disarmed", "a file has no lock"])
def test_negative_control_without_a_bridge_over_failed_scrapes_they_stay_silent(case: str, tmp_path: Path) -> None:
    without = re.sub(r"last_over_time\((vmguard_\w+(?:\{[^}]*\})?)\[2m\]\)", r"\1", RULES.read_text())
    assert judged(tmp_path, case, without).returncode != 0


def test_negative_control_an_increase_does_not_see_what_a_reset_has_forgotten(tmp_path: Path) -> None:
    without = RULES.read_text().replace("max_over_time(vmguard_last_event", "(vmguard_last_event").replace("[1h])", ")")
    assert judged(tmp_path, "the host was reset after the fence", without).returncode != 0


def test_every_runbook_is_a_section_of_the_documentation() -> None:
    """The way a person takes in the bad minute must lead somewhere."""
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    for rule in rules:
        file, _, anchor = (
            rule["annotations"]["runbook_url"].removeprefix("file:///usr/share/doc/vmguard/").partition("#")
        )
        titles = re.findall(r"^#+ (.*)$", (REPOSITORY / "packaging/docs" / file).read_text(), re.M)
        assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, rule["alert"]
