"""The table of worlds: how it is put together and printed, and that the documentation has the one that was kept."""

from __future__ import annotations

from pathlib import Path

from tests.support.source_tree import ROOT
from tests.support.world_sheet import GREEN, RED, ROWS, Sheet
from tests.support.world_table import Column, load, merged, reds, save, table

EVIDENCE = ROOT / "packaging/docs/evidence.md"
OWN = Column("own on own", "6.1.176", "6.1.176", {"claim": (GREEN, ""), "takeover": (GREEN, "10.4 s")})
USER_SPACE = Column("6.12 on ganesha", "6.12.113", "NFS-Ganesha 4.3 on 6.1.176", {"claim": (RED, "it is not")})


def test_a_row_whose_block_raises_is_red_and_the_next_one_goes_on() -> None:
    sheet = Sheet()
    with sheet.row("claim"):
        raise AssertionError("no lock\non the server")
    with sheet.row("takeover") as said:
        said("11 s")
    assert sheet.rows == {"claim": (RED, "AssertionError: no lock"), "takeover": (GREEN, "11 s")}
    assert sheet.red() == {"claim": "AssertionError: no lock"}


def test_a_cell_is_green_red_measured_or_not_run() -> None:
    lines = table([OWN, USER_SPACE]).splitlines()
    assert lines[0] == "| hosts on server | 6.1 on 6.1 | 6.12 on Ganesha 4.3 |"
    by_title = {line.split(" | ")[0].removeprefix("| "): line.removesuffix(" |").split(" | ")[1:] for line in lines}
    assert by_title[ROWS["claim"]] == ["ok", "**red**"]
    assert by_title[ROWS["takeover"]] == ["10.4 s", "not run"]
    assert by_title[ROWS["reboot"]] == ["not run", "not run"]
    assert reds([OWN, USER_SPACE]) == f"* 6.12 on Ganesha 4.3, {ROWS['claim']}: it is not\n"


def test_a_world_that_is_run_again_takes_the_place_of_its_old_column(tmp_path: Path) -> None:
    path = tmp_path / "worlds.json"
    assert load(path) == []
    order = ["own on own", "6.12 on ganesha"]
    save(merged(merged([], USER_SPACE, order), OWN, order), path)
    assert load(path) == [OWN, USER_SPACE]
    again = Column("own on own", "6.1.190", "6.1.190", {})
    assert merged(load(path), again, order) == [again, USER_SPACE]
    part = Column("own on own", "own", "own", {"claim": (RED, "gone")})
    column, _ = merged(load(path), part, order, in_part=True)
    assert (column.client, column.rows) == ("6.1.176", {**OWN.rows, **part.rows})


def in_the_document(columns: list[Column], text: str) -> bool:
    return table(columns) in text and all(line in text for line in reds(columns).splitlines())


def test_the_documentation_has_the_table_that_was_kept() -> None:
    columns = load()
    assert columns
    assert in_the_document(columns, EVIDENCE.read_text())


def test_negative_control_another_table_is_not_in_the_documentation() -> None:
    assert not in_the_document([OWN, USER_SPACE], EVIDENCE.read_text())
