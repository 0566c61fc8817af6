"""The tables of several runs of `make bench`."""

import json

import pytest
from bench import tables

RECORDS = {
    "Debian 13": {
        "release": "debian-13",
        "date": "2026-11-26 14:41",
        "cores": 2,
        "figures": {"box_memory": 110, "cpu": 7},
        "busy": {"memory": 1.4, "sustained": 3.2},
        "memory": {"dovecot.service": 18, "dbus.service": 0.7, "chatmail-filter.service": 25},
    },
    "Debian 12": {
        "release": "debian-12",
        "date": "2026-11-26 15:41",
        "cores": 2,
        "figures": {"box_memory": 110},
        "busy": {},
        "memory": {"dovecot.service": 12},
    },
}


def rows(lines):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_releases_beside_each_other_have_goals_and_verdicts_of_their_own():
    found = rows(tables.side_by_side(RECORDS))
    assert found[0] == ["figure", "goal", "Debian 13", "", "Debian 12", "", "unit"]
    assert found[2] == ["CPU a message", "≤ 9", "7", "met", "-", "", "ms"]
    assert found[3] == ["whole idle box", "≤ 120; ≤ 105", "110", "met", "110", "missed", "MB"]
    assert len(found) == 4


def test_services_are_in_the_order_of_what_they_take_without_the_small_ones():
    found = rows(tables.by_service(RECORDS, "memory", 1))
    assert found[2:] == [["`chatmail-filter`", "25", "-"], ["`dovecot`", "18", "12"]]


def test_instance_counts_for_its_service():
    records = {
        "Debian 13": {"cpu": {"postfix.service": 2, "init.scope": 1}},
        "Debian 12": {"cpu": {"postfix@-.service": 3, "postfix.service": 0.5}},
    }
    found = rows(tables.by_service(records, "cpu", 0.1))
    assert found[2:] == [["`postfix`", "2", "3.5"], ["`init.scope`", "1", "-"]]


def test_page_has_the_figures_of_peers():
    record = {**RECORDS["Debian 13"], "peers": {"cmdeploy": {"cpu": 14}}}
    page = tables.page({"Debian 13": record})
    assert ["CPU a message", "ms", "7", "14 (0.5 x)"] in rows(page)


def test_page_says_when_and_how_quietly_each_release_was_measured():
    page = rows(tables.page(RECORDS))
    assert ["Debian 13", "2026-11-26 14:41", "2", "3 % (sustained)"] in page
    assert ["Debian 12", "2026-11-26 15:41", "2", "0 %"] in page


def test_document_has_the_tables_of_the_measured_files():
    for path, text in tables.documents().items():
        assert path.read_text() == text, "run `make documents`"


def test_tables_replace_only_what_is_between_the_marks(tmp_path, monkeypatch):
    page, folder = tmp_path / "performance.md", tmp_path / "figures"
    folder.mkdir()
    page.write_text(f"above\n{tables.BEGIN}\nold\n{tables.END}\nbelow\n")
    (folder / "debian-13.json").write_text(json.dumps(RECORDS["Debian 13"]))
    monkeypatch.setattr(tables, "PAGE", page)
    monkeypatch.setattr(tables, "FIGURES_FOLDER", folder)
    lines = tables.documents()[page].splitlines()
    assert (lines[0], lines[-1]) == ("above", "below")
    assert "old" not in lines
    assert ["figure", "goal", "13 now", "", "unit"] in rows(lines)


def test_record_is_read_from_its_file(tmp_path):
    path = tmp_path / "debian-13.json"
    path.write_text(json.dumps(RECORDS["Debian 13"]))
    assert tables.read(path) == RECORDS["Debian 13"]


@pytest.mark.parametrize("text", [None, "no JSON"])
def test_file_that_is_no_record_ends_the_program_with_its_name(tmp_path, text):
    path = tmp_path / "before.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit, match=r"before\.json.*`make bench`"):
        tables.read(path)
