"""Every benchmark runs as its page says and prints one JSON object last, with the keys that are promised."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.common import in_child, middle, spread
from benchmarks.feed.measure import relative_times
from benchmarks.gate.data import CLASSES
from benchmarks.gate.measure import _measure
from benchmarks.gate.sides import LoopGate, _fused

_ROOT = Path(__file__).parents[2]


def _run(name: str, *options: str, timeout_s: float = 280) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", "--quick", *options]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(result, dict)
    assert result["benchmark"] == name
    assert result["hardware"].keys() >= {"cpu", "cores", "memory_bytes", "gpus"}
    assert result["hardware"]["cores"] >= 1
    assert result["versions"].keys() >= {"python", "coevo-ray", "ray", "torch", "numpy"}
    assert result["repeats"] >= 1
    return result


@pytest.mark.slow
def test_selection_gives_its_keys() -> None:
    result = _run("selection", "--rows", "20000")
    assert result["rows"] == 20_000
    assert result["by_policy"].keys() == {"factors", "factors_all", "rotation", "random", "scored"}
    assert result["threads"] >= 1
    # D5.6: at most 12 bytes per row. 1 of usage, 2 each of the scores, the factor and the doubt, 1 each of class,
    # copies and copy, and 3 bits.
    kept = {"factors": 3.375, "factors_all": 8.375, "rotation": 1.375, "random": 1.375, "scored": 5.375}
    for policy, row in result["by_policy"].items():
        assert row["seconds"] > 0 and row["cpu_seconds"] > 0
        assert row["restore_seconds"] > 0
        assert row["bytes_per_row"] == kept[policy]
        # A snapshot of usage and candidates, and the subset of each epoch as bits.
        assert 20_000 * (9 + 15) / 8 < row["journal_bytes"] < 20_000 * (9 + 15) / 8 + 31 * 400
        assert row["peak_bytes"] > 20_000 * row["bytes_per_row"]
        assert row["epochs"]["min"] <= row["seconds"] <= row["epochs"]["max"]
    for key in ("seconds", "peak_bytes", "restore_seconds", "bytes_per_row", "cpu_seconds"):
        assert result[key] == result["by_policy"]["factors"][key]


@pytest.mark.slow
def test_scale_gives_its_keys() -> None:
    result = _run("scale", "parts", "--rows", "3000", "--classes", "40")
    assert (result["rows"], result["classes"], result["drawn"]) == (3000, 40, 90)
    draws = {"draw_herding", "draw_typical", "draw_top", "draw_first"}
    others = {"predictions", "near_duplicates", "own_copies", "stored_copies", "groups"}
    assert result["parts"].keys() == others | draws
    for part in result["parts"].values():
        assert part["seconds"] > 0 and part["cpu_seconds"] > 0
        assert part["peak_bytes"] >= part["kept_bytes"] > 3000 * 16 * 8  # the graph is among it
        assert part["transient_bytes_per_row"] >= 0
    whole = _run("scale", "parts", "--rows", "3000", "--classes", "40", "--whole", "--parts", "predictions")
    assert whole["whole"] and whole["parts"].keys() == {"predictions"}


@pytest.mark.slow
def test_scale_by_sorting_gives_its_keys() -> None:
    result = _run("scale", "sorting", "--rows", "40000")
    assert result["ways"].keys() == {"whole", "parts"}
    for way in result["ways"].values():
        assert way["prepare_seconds"] > 0 and way["search_seconds"] > 0
        assert way["peak_bytes"] == max(way["peak_bytes_by_work"].values()) > way["idle_bytes"] > 0
    assert result["numbers"].keys() == {"begin", "sort", "place", "write_plan"}
    assert {"prepare graph: split", "prepare graph: tune"} < result["ways"]["parts"]["peak_bytes_by_work"].keys()


@pytest.mark.slow
def test_scale_by_a_gate_in_parts_gives_its_keys() -> None:
    result = _run("scale", "gate", "--sizes", "70000,140000", "--classes", "5", "--actors", "2")
    assert result["equal"] == {"70000": True, "140000": True}
    assert result["ways"].keys() == result["bytes_per_row"].keys() == {"one", "parts"}
    for way, kinds in (("one", {"gate"}), ("parts", {"gate", "part of the graph"})):
        assert result["bytes_per_row"][way].keys() == kinds
        for found in result["ways"][way].values():
            assert found["peak_bytes"].keys() == kinds and min(found["peak_bytes"].values()) > 0
            assert found["seconds"].keys() == {"open", "predictions", "draw"} and min(found["seconds"].values()) > 0


@pytest.mark.slow
def test_epoch_memory_gives_its_keys() -> None:
    result = _run("epoch_memory", "--rows", "300000")
    whole, parts = result["ways"]["whole"], result["ways"]["parts"]
    assert whole["digest"] == parts["digest"] and len(set(parts["digest"])) == result["workers"]
    assert whole["steps"] == parts["steps"] > 100
    assert whole["bytes_per_row"].keys() == parts["bytes_per_row"].keys() == {"own", "mapped"}


@pytest.mark.slow
def test_scale_by_rows_gives_its_keys() -> None:
    result = _run("scale", "rows", "--sizes", "2000,6000")
    assert result["slopes"].keys() == result["table"].keys() >= {"gate: groups", "ledger: factors", "score"}
    for row in result["table"].values():
        assert row.keys() == {"2000", "6000"}
        assert all(cell["seconds"] > 0 for cell in row.values())
    by_rows = {n: cell["cpu_seconds"] for n, cell in result["table"]["score"].items()}
    slope = np.log(by_rows["6000"] / by_rows["2000"]) / np.log(3)
    assert result["slopes"]["score"] == pytest.approx(slope, abs=0.05)


@pytest.mark.slow
def test_scale_by_nodes_gives_its_keys() -> None:
    result = _run("scale", "nodes", "--nodes", "1,2", "--node-rows", "600", timeout_s=660)
    stages = {f"{stage}: {scaling}" for stage in ("encode", "graph", "score") for scaling in ("strong", "weak")}
    assert result["table"].keys() == stages
    for name, row in result["table"].items():
        assert row["1"]["efficiency"] == row["1"]["speedup"] == 1
        many = 1200 if "strong" in name else 600
        assert row["1"]["rows"] == many * (1 if "encode" in name else 10)
        faster = row["2"]["rows"] / row["2"]["seconds"] * row["1"]["seconds"] / row["1"]["rows"]
        assert row["2"]["efficiency"] == pytest.approx(faster / 2, rel=0.05)


@pytest.mark.slow
def test_ingest_gives_its_keys() -> None:
    result = _run("ingest", "--rows", "20000")
    assert result["rows"] == 20_000
    assert result["by_mode"].keys() == {"key", "content"}
    for mode in result["by_mode"].values():
        assert mode["seconds"].keys() == mode["peak_bytes_per_row_up_to"].keys()
        assert mode["peak_bytes_per_row"] > 16  # the hashes alone
        assert 0 < mode["names_bytes_per_row"] < 10
    assert result["peak_bytes_per_row"] == result["by_mode"]["key"]["peak_bytes_per_row"]


@pytest.mark.slow
def test_durability_compares_checkouts() -> None:
    result = _run("durability", "--rows", "40", "--tree", str(_ROOT), "--tree", str(_ROOT))
    assert result["trees"].keys() == {"0", "1"} and result["rows"] == 40
    work = {"ingest", "journal_small", "journal_large"}
    assert result["ratio"].keys() == work and all(ratio > 0 for ratio in result["ratio"].values())
    for tree in result["trees"].values():
        assert tree.keys() == work and all(each["seconds"]["median"] > 0 for each in tree.values())


@pytest.mark.slow  # it takes seconds, but needs the extra bench
def test_gate_gives_its_keys_and_the_loop_has_the_same_gains() -> None:
    result = _run("gate", "--rows", "1500")
    assert (result["rows"], result["rule"], result["rounds"], result["labels"]) == (1500, "compat", 10, 300)
    assert result["gain_and_draw_ratio_to_loop"] > 1
    assert result["total_ratio_to_loop"] > 0
    assert 0 < result["max_gain_difference"] < 1e-5
    assert result["graph_recall"] == 1.0 and result["graph"]["method"] == "exact"
    assert result["loop"]["recall"] > 0.98
    assert result["seconds"] == pytest.approx(sum(result["by_part"]["ours"].values()), abs=1e-3)
    assert result["peak_bytes"] > 1500 * 256 * 2
    offers = result["offers"]
    assert offers["method"] == "exact" and offers["latency_ms"].keys() == {"1", "32"}
    for part in (part for latency in offers["latency_ms"].values() for part in latency.values()):
        assert 0 < part["p50"] <= part["p99"]


@pytest.mark.slow
def test_gate_has_no_peer_beyond_some_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.gate.measure.PEER_ROWS", 1000)
    monkeypatch.setattr("benchmarks.gate.measure.ROUNDS", 2)
    result, children = _measure(str(tmp_path), 3000, 1, {1: 2})
    assert (result["rule"], result["rounds"], result["labels"]) == ("margin", 2, 2000)
    for key in ("gain_and_draw_ratio_to_loop", "total_ratio_to_loop", "max_gain_difference", "loop"):
        assert result[key] is None
    assert result["seconds"] > 0 and len(children) == 2


def test_the_loops_gate_is_the_rule_by_hand() -> None:
    """Rows 1 and 2 say class 1 with confidence 0.5, row 0 says 0 with 0.1; all three are near one another."""
    probabilities = np.full((3, CLASSES), 0.05, dtype=np.float32)
    probabilities[:, 1] = 0.55
    probabilities[0] = [0.19] + [0.09] * 9
    others = {0: [1, 2], 1: [2, 0], 2: [1, 0]}
    gate = LoopGate(lambda row: (np.array(others[row]), np.array([0.95, 0.95])), probabilities)
    gate.all_gains()
    # All votes about row 0 are for class 1; of those about row 1 it has 0.5 of 0.6.
    assert gate.gain == pytest.approx([0, 1 - 0.5 / 0.6, 1 - 0.5 / 0.6], abs=1e-6)
    gate.answer(np.array([0]), np.array([0]))
    assert (gate.gain[0], gate.predicted[0], gate.confidence[0]) == (0.0, 0, 1.0)
    # The answer is against what its neighbours say: of the votes about them it has 1 of 1.5.
    assert gate.gain[1:] == pytest.approx([1 - 1 / 1.5] * 2, abs=1e-6)
    assert _fused(0.8, 1, 0.6, 1) == pytest.approx(0.48 / (0.48 + 0.08))
    assert _fused(0.6, 0, 0.8, 1) == pytest.approx(0.32 / (0.32 + 0.12))
    assert gate.draw(2, np.random.default_rng(0)).tolist() in ([1, 2], [2, 1])


@pytest.mark.slow
def test_feed_gives_its_keys() -> None:
    result = _run("feed", "--rows", "600", "--copies", "2", "--workers", "1")
    assert result["rows"] == {"small": 600, "large": 1200}
    for key in ("relative_epoch_time", "relative_epoch_time_small"):
        assert result[key].keys() == {"0.1", "0.3", "0.5", "0.7"}
        assert min(result[key].values()) > 0
    assert min(result["ratio_to_dataloader"].values()) > 0 and set(result["ratio_to_dataloader"]) == {"fixed", "random"}
    assert result["peak_ratio"] == round(result["peak_bytes"]["large"] / result["peak_bytes"]["small"], 3)
    for rows, pool in ((600, "small"), (1200, "large")):
        counts = result["counts"][pool]
        assert {share: c["rows_made"] for share, c in counts.items()} == {s: round(float(s) * rows) for s in counts}
        assert counts["0.1"]["groups_read"] <= counts["1.0"]["groups_read"]
    assert result["rows_per_s"]["ours"].keys() == result["rows_per_s"]["loader"].keys() == {"0", "1"}
    assert result["workers"] in (0, 1)


def test_relative_epoch_times_are_of_medians() -> None:
    times = relative_times({"0.1": [1.0, 9.0, 2.0], "0.5": [5.0], "1.0": [8.0, 10.0, 12.0]})
    assert times == {"0.1": 0.2, "0.5": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "afterwards"),
    [("latent", {"components", "fit", "measure", "align_write"}), ("random", {"uniformity", "fit", "align_write"})],
)
def test_encode_gives_its_keys_and_does_the_same_work_as_the_loop(form: str, afterwards: set[str]) -> None:
    result = _run("encode", "--rows", "600", "--shard-rows", "128", "--form", form)
    assert (result["rows"], result["form"]) == (600, form)
    for key in ("ratio_to_bare_loop", "ratio_in_running_session", "ratio_with_startup", "ratio_to_prefetching_loop"):
        assert result[key] > 0
    # What is left out of each: nothing, the session, and the actors' start too.
    assert result["seconds"]["steady"] < result["seconds"]["encode"]
    assert 0 < result["overhead_share"] < 1
    stages = {"read", "prepare", "encode", "project", "write", "waiting"}
    assert result["stage_seconds"].keys() == stages | afterwards
    assert 0 < result["waiting_share"] < 1
    # Stored as float16: values of unit vectors differ by half of 2^-11 at most, components of 4 to 8 by 2^-9.
    assert result["max_feature_difference"] <= (2**-11 if form == "random" else 2**-8)
    assert result["rows_per_s"].keys() == {"ours", "loop", "prefetching_loop"}


@pytest.mark.slow
def test_text_encode_gives_its_keys_and_does_the_same_work_as_the_loop() -> None:
    result = _run("text_encode", "--rows", "1200", "--dim", "32")
    assert (result["rows"], result["prior"], result["dim"]) == (1200, "wordllama:256", 32)
    for key in ("ratio_to_bare_loop", "tokens_per_s", "loop_tokens_per_s", "tokens"):
        assert result[key] > 0
    assert result["stage_seconds"].keys() >= {"read", "prepare", "encode", "project", "write", "waiting"}
    # Stored as float16: components of 32 to 64 by 2^-6, those of small variance have such values.
    assert result["max_feature_difference"] <= 2**-6


@pytest.mark.slow
def test_vector_heads_gives_its_keys(tmp_path: Path) -> None:
    result = _run("vector_heads", "--cache", str(tmp_path), "--rows", "300")
    assert result["table"].keys() == {"digits"}
    for cell in result["table"]["digits"].values():
        assert min(cell["tuned_linear"], cell["linear"]["median"], cell["mlp"]["median"]) > 0.5
        assert all(len(pairs) == 2 for pairs in cell["grid"].values())
    assert result["chosen"].keys() == {"linear", "mlp"}
    assert "gap_here" in result["chosen_elsewhere"]["digits"]["linear"]


@pytest.mark.slow
def test_text_feed_gives_its_keys() -> None:
    result = _run("text_feed", "--rows", "1500", "--workers", "1")
    assert result["rows"] == 1500 and result["ratio_to_dataloader"] > 0
    assert result["relative_epoch_time"].keys() == {"0.1", "0.3", "0.5", "0.7"}
    assert result["rows_per_s"]["ours"].keys() == result["rows_per_s"]["loader"].keys() == {"0", "1"}
    assert result["holds"].keys() == {"ratio_to_dataloader", "relative_epoch_time"}


@pytest.mark.slow
def test_text_run_gives_its_keys(tmp_path: Path) -> None:
    rows = [f"{word} of number {i} is here" for i in range(250) for word in ("lamp", "bill", "letter", "road")]
    columns = {"id": [f"t{i}" for i in range(len(rows))], "text": rows, "label": [row.split()[0] for row in rows]}
    pq.write_table(pa.table(columns), tmp_path / "train-0.parquet")
    result = _run("text_run", "--data", str(tmp_path), "--rows", "900", timeout_s=600)
    assert (result["data"], result["rows"]) == (tmp_path.name, 900)
    assert result["characters"] == sum(map(len, rows[:900]))
    assert result["by_stage"].keys() == {"pool", "encode", "sae", "gate", "train"}
    assert result["trained"].keys() == {"full", "random", "factors"} and min(result["trained"].values()) > 0.9
    assert result["seconds"] > result["in_stages"] >= max(result["by_stage"].values()) > 0
    assert 0 < result["label_share"] < 1 and result["full_accuracy"] > 0.9


@pytest.mark.slow
def test_vector_run_gives_its_keys() -> None:
    result = _run("vector_run", "--rows", "900", "--dim", "24", timeout_s=600)
    assert (result["rows"], result["dim"], result["verdict"]) == (900, 24, "one_prior")
    assert result["by_stage"].keys() == {"pool", "encode", "sae", "gate", "train"}
    assert result["seconds"] > result["in_stages"] >= max(result["by_stage"].values()) > 0
    assert min(result["trained"].values()) > 0.5


@pytest.mark.slow
def test_encode_gpu_gives_its_keys_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    result = _run("encode_gpu")
    assert result == {**json.loads((tmp_path / "encode_gpu.json").read_text()), **result}
    assert result["prior"] == "timm:test_vit/random"
    assert result["rows_per_s"].keys() == {"encode", "encode_in_shards", "forward", "forward_and_scaling"}
    for key in ("ratio_to_forward", "ratio_to_forward_and_scaling", "ratio_in_shards"):
        assert result[key] > 0
    assert 0 <= result["waiting_share"] < 1
    assert result["max_feature_difference"] < 0.05


@pytest.mark.parametrize("option", ["0", "-5", "many"])
def test_rows_must_be_positive(option: str) -> None:
    command = [sys.executable, "-m", "benchmarks.selection", "--json", "--rows", option]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--rows" in done.stderr


def _allocate(megabytes: int) -> int:
    return len(bytes(megabytes << 20).replace(b"\0", b"\1"))


@pytest.mark.slow
def test_a_child_reports_its_own_peak() -> None:
    small, large = in_child(_allocate, 1), in_child(_allocate, 200)
    assert large.result == 200 << 20
    assert large.peak_bytes - small.peak_bytes > 150 << 20
    assert large.seconds > 0


def test_repeats_are_summed_up() -> None:
    assert middle([3.0, 1.0, 2.00004]) == 2.0
    assert spread([3.0, 1.0, 2.0]) == {"min": 1.0, "median": 2.0, "max": 3.0}


@pytest.mark.slow  # tests/reporting/test_duplicates.py covers the command
def test_dedup_gives_its_keys() -> None:
    result = _run("dedup", "--rows", "3000")
    assert result["rows"] == 3000 and result["recall"] > 0.95 and result["precision"] > 0.9
    assert 0 < result["planted_leaks"] * 0.9 <= result["leaks"] <= result["planted_leaks"] * 1.1
    assert 0 < result["graph_seconds"] < result["seconds"] and result["peak_bytes"] > 1e8
