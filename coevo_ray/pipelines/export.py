"""Artifacts for other tools: the Hugging Face Hub, Lance, FiftyOne, an issues table like cleanlab's; subsets."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.graph.near_duplicates import copies_of
from coevo_ray.core.json import JsonObject
from coevo_ray.core.probes.label_doubt import DOUBTED
from coevo_ray.core.rows.row_set import Subset
from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.pipelines.export_fiftyone import export_fiftyone
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.stages import pool_for
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.dataset_card import CARD, write_dataset_card
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.manifest import MANIFEST
from coevo_ray.store.opening import locate, open_table
from coevo_ray.store.row_table import RowTable
from coevo_ray.store.verification import verify
from coevo_ray.store.writing import writing


def export(
    what: ArtifactLike,
    out: Place | None = None,
    to: Literal["lance", "issues", "fiftyone"] = "lance",
    push_to_hub: str | None = None,
    public: bool = False,
    pool: ArtifactLike | None = None,
) -> JsonObject:
    """Writes an artifact of tables for another tool.

    Args:
        what: the artifact, such as targets, labels, duplicates or a pool; or its folder. For issues, the evidence on
            labels, or the training or run that has it; for fiftyone too.
        out: the result; None where it only goes to the Hub.
        to: lance: a Lance dataset. issues: a table with the columns of cleanlab's `Datalab.get_issues()`, see
            `issues_of`; Parquet, or CSV where `out` ends in .csv. fiftyone: a folder that FiftyOne imports as
            `FiftyOneImageClassificationDataset`, see `export_fiftyone`.
        push_to_hub: OWNER/NAME of the Hugging Face Hub data set to upload the artifact's files to.
        public: make a new data set public; it is private otherwise.
        pool: the pool of the evidence's rows, for fiftyone.

    Returns:
        `rows`, and `out` or `hub`.

    Raises:
        UsageError: neither is given, the package is missing, there is no token, or the name is not a data set's.
        InputError: there is no such artifact, or its files are damaged.
        StoppedError: the store, the cluster or the Hub failed.
    """
    if push_to_hub is not None:
        return _pushed(what, push_to_hub, private=not public)
    if out is None:
        raise UsageError("there is no output for the result", "name it with --out, or a data set with --push-to-hub")
    place = Location.parse(out)
    if to == "fiftyone":
        if pool is None:
            raise UsageError("FiftyOne gets images, and there is no pool", "name the evidence's pool with --pool")
        images = pool_for("export", pool)
        return export_fiftyone(open_table(what, "evidence"), images, place)
    if to == "issues":
        return _issues_file(open_table(what, "evidence"), place)
    return _lance(RowTable(locate(what, None)), place)


def issues_of(evidence: ArtifactLike) -> pa.Table:
    """Evidence as a table with the columns of cleanlab's `Datalab.get_issues()`.

    Scores are in [0, 1], lower is worse. A label's is the probability that it is right; near-duplicates have 1 / the
    number of rows of their group.

    Args:
        evidence: the evidence on labels, or its folder.

    Returns:
        `row_id`, `is_label_issue`, `label_score`, `given_label`, `predicted_label`, `is_near_duplicate_issue`,
        `near_duplicate_score` and `near_duplicate_sets` (list<int64>, the other rows of the group), by row.

    Raises:
        InputError: there is no evidence.
    """
    found = open_table(evidence, "evidence").scan(["row_id", "label", "doubt", "likely", "group"])
    doubt = found.column("doubt").to_numpy().astype(np.float64)
    group: Int64Array = found.column("group").to_numpy()
    copies, _ = copies_of(group)
    return pa.table(
        {
            "row_id": found.column("row_id"),
            "is_label_issue": doubt > DOUBTED,
            "label_score": 1.0 - doubt,
            "given_label": found.column("label"),
            "predicted_label": found.column("likely"),
            "is_near_duplicate_issue": copies > 1,
            "near_duplicate_score": 1.0 / copies,
            "near_duplicate_sets": _others(found.column("row_id").to_numpy(), group, copies),
        }
    )


def write_subset(subset: Subset, pool: ArtifactLike, out: Place) -> RowTable:
    """Writes the rows of an epoch as a data set: `row_id`, `key`, `label` (null for none) and `weight` float32.

    Args:
        subset: such as a ledger selects.
        pool: of its rows.
        out: folder of the result.

    Raises:
        InputError: the pool lacks a row.
        UsageError: the folder holds something else.
        StoppedError: the store refused.
    """
    opened, place = Pool.open(pool), Location.parse(out)
    table = opened.read(subset.row_ids, ["row_id", "key", "label"]).select(["row_id", "key", "label"])
    weights = np.ones(len(table), np.float32) if subset.weights is None else subset.weights
    table = table.append_column("weight", pa.array(weights))
    config, inputs = {"epoch": subset.epoch}, {"pool": opened.manifest.identity}
    with writing(place, at_once=True):
        if begin(place, "subset", config, inputs) is None:
            files = [write_table(place, "subset-000000.parquet", table)]
            finish(place, "subset", config, inputs, files, {"rows": len(table)})
    made = RowTable(place, "subset")
    write_dataset_card(place, made.manifest)
    return made


def _others(row_ids: Int64Array, group: Int64Array, copies: Any) -> pa.Array:
    """The other rows of each row's group: list<int64>[n]."""
    sets: list[list[int]] = [[] for _ in row_ids]
    inside = np.flatnonzero(copies > 1)
    by_group = inside[np.argsort(group[inside], kind="stable")]
    starts = np.flatnonzero(np.diff(group[by_group], prepend=-1))
    for members in np.split(by_group, starts[1:]):
        rows = row_ids[members].tolist()
        for at, row in zip(members.tolist(), rows, strict=True):
            sets[at] = [other for other in rows if other != row]
    return pa.array(sets, pa.list_(pa.int64()))


def _issues_file(evidence: RowTable, place: Location) -> JsonObject:
    table, sink = issues_of(evidence), pa.BufferOutputStream()
    if place.path.endswith(".csv"):
        pa.csv.write_csv(table.drop_columns(["near_duplicate_sets"]), sink)  # CSV has no lists
    else:
        pq.write_table(table, sink)
    place.write_bytes(sink.getvalue().to_pybytes())
    figures = {name: int(np.sum(table.column(f"is_{name}_issue").to_numpy())) for name in ("label", "near_duplicate")}
    return {"rows": len(table), "out": str(place), "issues": figures}


def _lance(table: RowTable, place: Location) -> JsonObject:
    if find_spec("lance") is None:
        raise UsageError("Lance needs the package pylance", "pip install 'coevo-ray[lance]'")
    if place.is_folder() and place.files(recursive=True):
        raise UsageError(f"{place} already exists", "choose another output with --out")
    if not table.files:
        raise InputError(f"{table.location} has no rows", "export an artifact with rows")
    import lance

    # Not by Ray Data: `write_lance` of Ray 2.60 calls pylance 14 with an argument that it does not have any more.
    schema = table.schema()
    parts = (part for index in range(len(table.files)) for part in table.iter_file(index, schema.names))
    batches = (batch for part in parts for batch in part.select(schema.names).to_batches())
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches), place.path if place.is_local else place.uri)
    return {"rows": len(table), "out": str(place)}


def _pushed(what: ArtifactLike, repo: str, private: bool) -> JsonObject:
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is in its documentation

    table = RowTable(locate(what, None))
    place, manifest = table.location, table.manifest
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"{repo!r} is not a data set name: {error}", "give OWNER/NAME, such as me/targets") from None
    if repo.count("/") != 1:
        raise UsageError(f"{repo!r} has no owner", "give OWNER/NAME, such as me/targets")
    token = get_token()
    if token is None:
        raise UsageError("there is no token for the Hugging Face Hub", "run `hf auth login`, or set HF_TOKEN")
    if not place.is_local:
        raise UsageError(f"{place} is not on this machine", "copy the artifact here, then push its folder")
    if damaged := verify(place, manifest):
        raise InputError(f"{place}: {', '.join(damaged)} are damaged or missing", "make the artifact again")
    if not place.child(CARD).is_file():
        write_dataset_card(place, manifest)
    names = [MANIFEST, *(entry.path for entry in manifest.files), CARD, "card.json"]
    api = HfApi(token=token)
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        made = api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=Path(place.path),
            allow_patterns=names,
            commit_message=f"{manifest.kind} of coevo-ray, {manifest.identity[:12]}",
        )
    except (HfHubHTTPError, OSError) as error:
        raise StoppedError(
            f"the Hugging Face Hub failed: {error}", "check the token and the network, then run it again"
        ) from error
    return {"rows": len(table), "hub": str(made)}
