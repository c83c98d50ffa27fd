"""A run looks at its pool's labels before it encodes anything: the gate and training would miss them hours later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coevo_ray
from coevo_ray.errors import InputError

pytestmark = pytest.mark.usefixtures("ray_local")
GATE, FILES = {"seed_fraction": 0.1}, {"annotator": {"kind": "file_drop", "folder": "unused"}, "classes": ["a", "b"]}


def run(folder: Path, labels: list[Any] | None, **stages: Any) -> None:
    """A run of twelve vectors; without a fault it would go on to encode, which refuses so few."""
    np.save(folder / "vectors.npy", np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32))
    if labels is not None:
        np.save(folder / "vectors.labels.npy", np.array(labels))
    pool = {"sources": [{"uri": str(folder / "vectors.npy"), "format": "npy"}], "test_fraction": 0}
    encode = {"priors": ["column:vector"], "shared": 0.5, "dim": 64}
    coevo_ray.run({"out": str(folder / "run"), "pool": pool, "encode": encode, "gate": None, **stages})


@pytest.mark.parametrize(
    ("labels", "stages", "said"),
    [
        (None, {"gate": GATE}, "0 classes; the gate needs two or more"),
        ([1, 10**6] * 6, {"gate": GATE}, "run up to 1,000,000, need 65,536 classes or fewer"),
        (None, {"train": {"labels": "pool"}}, "no row of the pool has a label"),
        ([3] * 12, {"train": {"labels": "pool"}}, "all labels of the pool are of class 3"),
        (None, {"gate": FILES, "train": {"labels": "pool"}}, "no row of the pool has a label"),
    ],
)
def test_what_labels_cannot_do_is_said_before_the_pool_is_encoded(
    tmp_path: Path, labels: list[Any] | None, stages: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run(tmp_path, labels, **stages)
    assert (tmp_path / "run/pool/manifest.json").is_file()
    assert not (tmp_path / "run/encode").exists()


def test_rows_without_a_label_are_named_where_labels_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="latent of 64 dimensions"):
        run(tmp_path, [0, 1, -1, -1] * 3, gate=GATE)
    assert "6 of 12 rows have no label: the gate's annotator label_column answers" in capsys.readouterr().err
    with pytest.raises(InputError, match="latent of 64 dimensions"):
        run(tmp_path, [0, 1, -1, -1] * 3, gate=FILES, out=str(tmp_path / "asks"))
    assert "label_column" not in capsys.readouterr().err
