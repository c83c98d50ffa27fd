"""Figures as Prometheus gets them: scraped from the node's metrics page of a real session."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from coevo_ray.actors.actor import start_selection
from coevo_ray.app import api
from coevo_ray.runtime.metrics import RayMetrics
from coevo_ray.runtime.shards import run_each
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import load_manifest
from coevo_ray.telemetry import METRICS, ROWS_DONE, named_run
from tests.actors.test_service import CLASSES, ROW_IDS, Make, arriving, predictions

Page = dict[tuple[str, ...], float]


def scrape(run: str) -> Page:
    """Values of a run by (name, stage, further tags by name); of restarted processes the largest."""
    (node,) = ray.nodes()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    page = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    # Not `urlopen`, which keeps proxies that another test had set when it was first called.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(page, timeout=30) as answer:
        text = answer.read().decode()
    names = {f"ray_{metric.name}": metric for metric in METRICS}
    found: Page = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            metric = names.get(sample.name.removesuffix("_count"))
            if metric is None or sample.labels.get("run") != run:
                continue
            assert (family.type == "unknown") is False and family.type == metric.kind
            assert family.documentation == metric.text
            key = (sample.name.removeprefix("ray_coevo_ray_"), *(sample.labels[tag] for tag in metric.tags[1:]))
            found[key] = max(sample.value, found.get(key, sample.value))
    return found


def until(run: str, ready: Callable[[Page], bool], seconds: float = 120) -> Page:
    end = time.monotonic() + seconds
    while True:
        page = scrape(run)
        if ready(page):
            return page
        assert time.monotonic() < end, page
        time.sleep(0.5)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[str]:
    with named_run(f"run-{tmp_path.name}"):
        yield f"run-{tmp_path.name}"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_rows_gate_and_ledger_are_on_the_nodes_page(run: str, tmp_path: Path) -> None:
    selection = start_selection(run, Make(str(tmp_path)), "train rotation")
    kept = selection.ledger.select(0)
    selection.ledger.commit(0)
    gate = selection.gate
    gate.update_predictions((ROW_IDS, predictions(0)))
    asked = gate.request()
    gate.submit(asked[1:], np.zeros(len(asked) - 1, dtype=np.int64), "ann")
    learned = gate.note_learned({"accuracy": 0.75})
    row_ids, features, p = arriving(1)
    decided = gate.offer(row_ids, features, p)
    gate.offer(row_ids, features, p)
    rows = [{"rows": 10, "rejected": 1} for _ in range(4)]
    assert len(list(run_each("score", rows, lambda row: {"rows": row["rows"], "rejected": row["rejected"]}))) == 4

    last = ("journal_append_seconds_count", "train rotation", "offer")
    page = until(run, lambda page: last in page and page.get(("stage_running", "score")) == 0)
    stage = "train rotation"
    figures = selection.ledger.figures()
    expected: Page = {
        ("rows_done_total", "score"): 40,
        ("rows_rejected_total", "score"): 4,
        ("rejected_ratio", "score"): 0.1,
        ("stage_running", "score"): 0,
        ("kept_ratio", stage, "rotation"): len(kept.row_ids) / len(ROW_IDS),
        ("never_used_ratio", stage, "rotation"): 1 - len(kept.row_ids) / len(ROW_IDS),
        ("usage_spread", stage, "rotation"): 1,
        ("selection_seconds", stage, "rotation"): figures["selection_seconds"],
        ("gate_labels", stage): len(asked) - 1,
        ("gate_open_requests", stage): 1,
        ("gate_rounds", stage): 0,
        ("gate_mean_gain_ratio", stage): learned["mean_gain"],
        ("gate_accuracy_ratio", stage): 0.75,
        ("gate_stopped", stage): 0,
    }
    actions = np.bincount(decided["action"], minlength=CLASSES)
    for name, count in zip(("annotate", "pseudo_label", "skip"), actions, strict=True):
        if count:
            expected["gate_decisions_total", stage, name] = int(count)
    for event in ("select", "commit", "request", "labels", "learned", "offer"):
        expected["journal_append_seconds_count", stage, event] = 1
    assert {key: page[key] for key in expected} == pytest.approx(expected)
    assert page["last_progress_timestamp_seconds", "score"] == pytest.approx(time.time(), abs=300)
    selection.stop()


@pytest.mark.usefixtures("ray_local")
def test_a_figure_costs_microseconds_and_never_an_error() -> None:
    receiver, tags = RayMetrics(), {"run": "r", "stage": "s"}
    receiver.record(ROWS_DONE, 1, tags)
    started = time.perf_counter()
    for _ in range(1000):
        receiver.record(ROWS_DONE, 1, tags)
    assert time.perf_counter() - started < 1, "a thousand a second would cost all of it"
    receiver.record(ROWS_DONE, -1, tags)
    receiver.record(ROWS_DONE, 1, {"run": "r"})


SMALL: dict[str, Any] = {
    "pool": {"sources": ["sample:digits"], "test_fraction": 0.2, "shard_rows": 700},
    "encode": {
        "priors": [{"name": "efficientnet_lite:0", "input_size": 32}],
        "projection": "random",
        "dim": 32,
        "shared": 0.1,
        "shard_rows": 256,
    },
    "sae": {"latents": 64, "k": 8, "epochs": 3},
    "gate": {"seed_fraction": 0.1, "round_fraction": 0.1, "relative_gain": 0.0, "tolerance": 0, "max_rounds": 3},
    "train": {"image_size": 8, "labels": "gate", "policies": ["factors"], "epochs": 3},
}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_run_publishes_what_its_stages_report(tmp_path: Path) -> None:
    """The whole loop; while it goes on its page is read, for actors take their figures with them."""
    out = tmp_path / f"digits-{tmp_path.name}"
    pages: list[Page] = []
    done = ray_run_in_thread({**SMALL, "out": str(out)}, lambda: pages.append(scrape(out.name)))
    summary = done.summary
    final = until(out.name, lambda page: page.get(("stage_running", "train factors")) == 0)
    seen: Page = {}
    for page in [*pages, final]:
        for key, value in page.items():
            seen[key] = max(value, seen.get(key, value)) if key[0].endswith(("_total", "_count")) else value
    rows, train_rows = summary["pool"]["rows"], summary["pool"]["train_rows"]
    place = Location.parse(str(out))
    encoded = load_manifest(place.child("encode", "contributions", "00"), "contribution").summary
    title = "encode efficientnet_lite:0@32"
    assert seen["rows_done_total", "check samples"] == seen["rows_done_total", "write pool"] == rows
    assert seen["rows_done_total", title] == encoded["encoded_rows"] == rows
    assert seen["waiting_ratio", title, "efficientnet_lite:0@32"] == pytest.approx(encoded["waiting_share"], abs=1e-4)
    assert seen["rows_done_total", "graph"] == train_rows  # the gate's; the evidence's is a copy
    assert seen["rows_done_total", "SAE codes"] == seen["rows_done_total", "score"] == rows
    assert seen["epochs_done_total", "train factors"] == 3
    assert seen["progress_ratio", "train factors"] == 1
    samples = [json.loads(line)["samples"] for line in (out / "train/factors/metrics.jsonl").read_text().splitlines()]
    assert seen["rows_done_total", "train factors"] == samples[-1]
    assert 0 <= seen["feed_wait_ratio", "train factors", "0"] <= 1
    assert 0 < seen["feed_wait_seconds_total", "train factors", "0"] < summary["train"]["factors"]["wall_seconds"]
    assert seen["kept_ratio", "train factors", "factors"] == pytest.approx(0.5, abs=0.01)
    assert 0 <= seen["never_used_ratio", "train factors", "factors"] < 1
    assert 0 < seen["gate_labels", "gate"] <= summary["gate"]["labels"]
    assert {key[2] for key in seen if key[:2] == ("journal_append_seconds_count", "gate")} >= {"request", "labels"}
    assert {key[1] for key in seen if key[0] == "stage_running"} >= {"check samples", title, "fit SAE", "gate"}


def ray_run_in_thread(config: dict[str, Any], look: Callable[[], None]) -> Any:
    """Runs the loop in this process, and looks at its page every two seconds meanwhile."""
    import threading

    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(api.run(config)))
    thread.start()
    while thread.is_alive():
        thread.join(2)
        look()
    assert made, "the run failed: see the thread's error above"
    return made[0]
