"""The documentation and the dashboard have the metrics of the endpoint."""

import json
import re

from chatmaild.metrics import counters
from support.metrics import ROOT

DOCS = ROOT / "docs/metrics.md"
DASHBOARD = ROOT / "docs/grafana-dashboard.json"


def documented():
    """Return {name: labels} of the table in the documentation."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", DOCS.read_text(), re.M)
    return {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def test_documentation_lists_what_the_services_count():
    known = {each.name: each.labels for each in (*counters.COUNTERS, *counters.OLD_NAMES)}
    table = documented()
    assert {name: table.get(name) for name in known} == known


def test_documentation_lists_dovecots_metrics_of_both_versions():
    table = {name for name in documented() if name.startswith("dovecot_")}
    for version in ("2.3", "2.4"):
        path = ROOT / f"chatmail/dovecot/files/dovecot-{version}.conf.jinja"
        blocks = re.findall(r"^metric (\w+) \{\n(.*?)^\}", path.read_text(), re.M | re.S)
        names = {
            f"dovecot_{name}" if "exponential" in block else f"dovecot_{name}_total"
            for name, block in blocks
        }
        assert names | {"dovecot_build_info"} == table


def dashboard_names():
    """Return the metrics in the expressions of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert len(expressions) > 30
    return {name for each in expressions for name in re.findall(r"(\w+)\{", each)}


def test_dashboard_shows_documented_metrics():
    names = {name.removesuffix("_bucket") for name in dashboard_names()}
    assert names <= documented().keys()
    # All except old names of metrics that have a new name, too.
    left_out = documented().keys() - names
    again = {each.name for each in counters.OLD_NAMES}
    assert left_out <= again | {"dovecot_build_info", "dovecot_imap_unhibernated_total"}


def test_dashboard_is_one_that_grafana_imports():
    dashboard = json.loads(DASHBOARD.read_text())
    assert {"uid", "title", "schemaVersion", "templating", "time", "panels"} <= dashboard.keys()
    assert dashboard["schemaVersion"] >= 36
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    covered = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & covered, panel["title"]
        covered |= cells
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert 'instance=~"$instance"' in target["expr"]
