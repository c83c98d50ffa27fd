"""The dashboard and the alerts ask for the figures that the code declares, and show all of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from coevo_ray.telemetry import METRICS, Metric

CLUSTER = Path(__file__).parents[2] / "cluster"
DASHBOARD: dict[str, Any] = json.loads((CLUSTER / "grafana-dashboard.json").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((CLUSTER / "prometheus-rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
EXPORTED = {f"ray_{metric.name}{'_bucket' * (metric.kind == 'histogram')}": metric for metric in METRICS}
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel.get("targets", ())]


def parsed(query: str) -> promql_parser.Expr:
    """The query with Grafana's variables filled in, as Prometheus sees it."""
    return promql_parser.parse(query.replace("$run", ".*"))


def selectors(node: promql_parser.Expr) -> Iterator[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def look(each: promql_parser.Expr) -> bool:
        if isinstance(each, promql_parser.VectorSelector):
            found.append(each)
        return True

    promql_parser.walk(node, look)
    yield from found


def used(query: str) -> set[str]:
    return {str(selector.name) for selector in selectors(parsed(query))}


def labels_of(query: str) -> set[str]:
    """Labels that a query groups by or selects by."""
    groups = re.findall(r"\b(?:by|on) \(([^)]*)\)", query)
    by = {name.strip() for group in groups for name in group.split(",")}
    return (by | set(re.findall(r"(\w+)=~?\"", query))) - {"le"}


def test_a_parser_that_refuses_what_prometheus_refuses() -> None:
    for wrong in (
        "rate(ray_x[5m]",
        "sum by (run (ray_x)",
        "rate(ray_x)",
        "ray_x[5m] > 1",
        "max(ray_x) and on run ray_y",
    ):
        with pytest.raises(ValueError):
            parsed(wrong)


@pytest.mark.parametrize("query", [*QUERIES, *(rule["expr"] for rule in RULES)])
def test_queries_are_of_declared_figures_and_their_tags(query: str) -> None:
    names = used(query)
    assert names and names <= EXPORTED.keys()
    tags = set.intersection(*(set(EXPORTED[name].tags) for name in names))
    assert labels_of(query) <= tags


@pytest.mark.parametrize("query", [*QUERIES, *(rule["expr"] for rule in RULES)])
def test_counters_are_read_as_counters(query: str) -> None:
    """`rate` of a gauge and the quantile of what is no histogram are numbers that mean nothing."""
    for name in re.findall(r"(?:rate|increase)\((\w+)", query):
        assert EXPORTED[name].kind != "gauge"
    for name in used(query):
        assert (EXPORTED[name].kind == "histogram") == ("histogram_quantile" in query)


def test_every_declared_figure_is_shown() -> None:
    assert set().union(*map(used, QUERIES)) == EXPORTED.keys()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_prometheus(metric: Metric) -> None:
    assert re.fullmatch(r"coevo_ray_[a-z_]+[a-z]", metric.name)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert not metric.name.endswith(("_ms", "_milliseconds", "_percent", "_share", "_count", "_sum", "_bucket"))
    assert metric.tags[:2] == ("run", "stage") and metric.text.endswith(".")
    assert (metric.kind == "histogram") == bool(metric.bounds) and list(metric.bounds) == sorted(set(metric.bounds))


def test_the_dashboard_loads_anywhere() -> None:
    """Grafana takes a file whose panels have ids of their own and whose data source is chosen by a variable."""
    assert DASHBOARD["schemaVersion"] >= 36 and DASHBOARD["uid"] and DASHBOARD["title"]
    assert "id" not in DASHBOARD  # Grafana gives one
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids))
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    assert re.findall(r"ray_\w+", variables["run"]["definition"])[0] in EXPORTED
    sources = re.findall(r'"uid": "([^"]*)"', json.dumps([PANELS, variables["run"]]))
    assert set(sources) == {"${datasource}"}
    assert {name for query in QUERIES for name in re.findall(r"\$(\w+)", query)} <= variables.keys()
    spots = [panel["gridPos"] for panel in PANELS]
    cells = [(x, y) for s in spots for x in range(s["x"], s["x"] + s["w"]) for y in range(s["y"], s["y"] + s["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


def test_panels_have_words_and_legends_of_their_labels() -> None:
    for panel in PANELS:
        assert panel["type"] in ("row", "stat", "timeseries")
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith(".") and panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels_of(target["expr"]) | {"run"}


def test_alerts_say_what_and_what_to_do() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
    for rule in RULES:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("info", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
        named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert "run" in named and named <= labels_of(rule["expr"])
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))


def test_the_readme_names_these_files() -> None:
    text = (CLUSTER / "README.md").read_text()
    assert "(grafana-dashboard.json)" in text and "(prometheus-rules.yaml)" in text
    named = set(re.findall(r"`([a-z_]+)`", text[text.index("## Monitoring") :]))
    assert {metric.name.removeprefix("coevo_ray_") for metric in METRICS} <= named


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Prometheus")
def test_alerts_fire_and_keep_still_as_told() -> None:
    told = Path(__file__).with_name("prometheus-rules.test.yaml")
    done = subprocess.run(["promtool", "test", "rules", str(told)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
