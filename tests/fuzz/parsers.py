"""Everything that reads files of others, with valid inputs to damage; a new parser gets a line in `PARSERS`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from coevo_ray.annotators.answer_files import read_answer_file
from coevo_ray.config import PoolConfig, Source, load_config
from coevo_ray.config.base import as_settings
from coevo_ray.config.training import TrainConfig
from coevo_ray.core.factors.sae import SAEConfig, TopKSAE
from coevo_ray.errors import InputError
from coevo_ray.pipelines.ingest.passes import Rows, check_shard, write_shard
from coevo_ray.pool.images import decode_image
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.rejects import Reject
from coevo_ray.pool.sources import cut, list_source, read_keys
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_blob
from coevo_ray.store.graph_files import load_graph, open_graph
from coevo_ray.store.journal import Journal
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import load_manifest
from coevo_ray.store.sae_files import export_saelens, load_sae, read_saelens, save_sae
from tests.fuzz.inputs import Files
from tests.pool.pictures import encoded, picture, png, write_parquet, write_tar

CLASSES = ("cat", "wild dog", "3")


@dataclass(frozen=True)
class Parser:
    """A parser and what it is tried on.

    Attributes:
        name: for reports.
        seeds: folder to work in -> valid inputs: file name -> content.
        parse: folder of an input -> nothing; raises what the parser raises.
    """

    name: str
    seeds: Callable[[Path], list[Files]]
    parse: Callable[[Path], object]


def _files(folder: Path) -> Files:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def _in(folder: Path) -> Location:
    return Location.parse(str(folder))


# -- settings --------------------------------------------------------------------------------------------------------


def _run_files(folder: Path) -> list[Files]:
    examples = Path(__file__).parents[2] / "examples"
    return [{"run.yaml": (examples / name).read_bytes()} for name in ("digits.yaml", "cifar10.yaml")]


_TRAIN = b"""policies: [factors, full_budget, infobatch]
policy_options:
  factors: {max_doubt: 0.5, quota_power: 0.5}
keep: 0.3
epochs: 4
"""


def _read_policy_options(folder: Path) -> None:
    settings = as_settings(TrainConfig, str(folder / "train.yaml"), "train")
    for name in settings.policies:
        settings.make_policy(name)


# -- sources ---------------------------------------------------------------------------------------------------------


def _images(folder: Path) -> list[Files]:
    kinds = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "ICO", "SGI", "MPO")
    made = [encoded(picture(i, 16), kind) for i, kind in enumerate(kinds)]
    made += [encoded(picture(1, 16).convert(mode), "PNG") for mode in ("L", "1", "RGBA", "P")]
    return [{"image": data} for data in made]


def _read_source(folder: Path, **settings: object) -> list[Reject]:
    """As ingest reads a source: list, cut, keys, entries, and the check of each sample."""
    rejects: list[Reject] = []
    source = Source.model_validate({"uri": str(folder), **settings})
    config = PoolConfig(sources=(source,))
    for whole in list_source(source, 3).shards:
        for shard in cut(whole, 3):
            keys = list(read_keys(shard))
            found = check_shard(0, shard, config)
            if len(keys) != len(found.usable):
                raise AssertionError(f"{len(keys)} keys of {len(found.usable)} entries")
            rejects += found.rejects
    return rejects


def _tars(folder: Path) -> list[Files]:
    members = [
        (f"{i}.{end}", data)
        for i in range(4)
        for end, data in (("png", png(i)), ("cls", b"1"), ("json", b'{"label": 1}'))
    ]
    write_tar(folder / "a.tar", members)
    write_tar(folder / "b.tar.gz", members)
    write_tar(folder / "c.tar", sorted(members, key=lambda m: m[0][2:]))
    return [{name: data} for name, data in _files(folder).items()]


def _tables(folder: Path) -> list[Files]:
    images = [png(i) for i in range(5)]
    vectors = pa.array([[float(i), 1.0] for i in range(5)], pa.list_(pa.float32()))
    write_parquet(folder / "a.parquet", image=images, label=[0, 1, 2, None, -1], v=vectors)
    cells = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)]
    write_parquet(
        folder / "b.parquet", image=cells, label=pa.array(["x", "y", "x", "", None]).dictionary_encode(), v=vectors
    )
    return [{name: data} for name, data in _files(folder).items()]


def _lines(folder: Path) -> list[Files]:
    return [
        {"a.csv": b'id,text,label\n1,one,cat\n2,"two, with\na line",dog\n3,"3 "" quotes",\n'},
        {"a.csv": b"\xef\xbb\xbfsep=;\r\nid;text;label\r\n1;one;1\r\n2;two;2\r\n"},
        {"a.jsonl": b'{"id": 1, "text": "one", "label": "cat"}\n\n{"id": "b", "text": "\\u00e4", "label": null}\n'},
    ]


def _text_files(folder: Path) -> list[Files]:
    files = {"train/pos/a.txt": b"one\n", "train/neg/b": "zw\u00f6lf".encode(), "test/pos/c.txt": b"\xef\xbb\xbfthree"}
    return [files, {"a.txt": b"one"}]


def _read_text_files(folder: Path) -> None:
    """A damaged text file is a reject, and never refuses the source."""
    if rejects := _read_source(folder, format="texts"):
        raise InputError(rejects[0].reason, "replace the file")


def _matrices(folder: Path) -> list[Files]:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "x.npy", np.arange(12, dtype=np.float16).reshape(4, 3))
    lines = {"x.keys.txt": "a\nb\nschön\nd\n".encode(), "x.labels.txt": b"cat\n\ndog\ncat"}
    matrix = _files(folder)
    np.save(folder / "keys.npy", ["a", "b", "c", "d"])
    np.save(folder / "labels.npy", [0, 1, -1, 2])
    return [{**matrix, **lines}, _files(folder)]


def _described_images(folder: Path) -> list[Files]:
    images = {f"{i}.png": png(i) for i in range(2)}
    lines = b'{"file_name": "0.png", "label": "cat"}\n{"file_name": "1.png", "label": 1}\n'
    return [{**images, "metadata.csv": b"file_name,label\n0.png,cat\n1.png,dog\n"}, {**images, "metadata.jsonl": lines}]


# -- answers ---------------------------------------------------------------------------------------------------------


class _Answers:
    """Answers for a small pool, which is made once."""

    def __init__(self) -> None:
        self.pool: Pool | None = None

    def csv(self, folder: Path) -> list[Files]:
        self.pool = _small_pool(folder)
        plain = b'row_id,label,annotator\n0,cat,ada\n1,"wild dog",ada\n2,3,bo\n'
        by_key = "key;label\r\n0.png;cat\r\n3.png;3\r\n".encode("utf-16")
        return [{"answers.csv": plain}, {"answers.csv": by_key}, {"answers.csv": b"sep=;\nrow_id;label\n0;cat\n"}]

    def parquet(self, folder: Path) -> list[Files]:
        self.pool = _small_pool(folder)
        columns = [
            pa.array(["cat", "3"]),
            pa.array([0, 2]),
            pa.array([0.0, 1.0]),
            pa.array(["cat", "3"]).dictionary_encode(),
        ]
        result = []
        for labels in columns:
            sink = io.BytesIO()
            pq.write_table(pa.table({"row_id": [0, 1], "label": labels, "annotator": ["a", "b"]}), sink)
            result.append({"answers.parquet": sink.getvalue()})
        return result

    def parse(self, folder: Path) -> None:
        assert self.pool is not None
        (file,) = folder.iterdir()
        read_answer_file(_in(file), self.pool, len(CLASSES), CLASSES)


def _small_pool(folder: Path) -> Pool:
    """Makes a pool of four images, without Ray."""
    for i in range(4):
        (folder / "source").mkdir(parents=True, exist_ok=True)
        (folder / "source" / f"{i}.png").write_bytes(png(i))
    source, place = Source(uri=str(folder / "source")), _in(folder / "pool")
    config = PoolConfig(sources=(source,))
    (shard,) = list_source(source, 100).shards
    found = check_shard(0, shard, config)
    rows = Rows("rows-000000.parquet", found.usable, 0, np.zeros(4, np.int8), found.digest)
    written = write_shard(config, place, shard, rows)
    finish(place, "pool", {"sources": []}, {}, [written.file], {"modality": "image", "classes": 3})
    return Pool(place)


# -- artifacts -------------------------------------------------------------------------------------------------------


def _pools(folder: Path) -> list[Files]:
    return [_files(Path(_small_pool(folder).location.uri))]


def _read_pool(folder: Path) -> None:
    pool = Pool.open(_in(folder))
    pool.labels()
    pool.read(np.arange(min(2, len(pool))), ["key", "image"])


def _journals(folder: Path) -> list[Files]:
    journal = Journal(_in(folder))
    for i in range(4):
        journal.append("step", {"number": i}, {"rows": np.arange(i + 1)})
    journal.snapshot({"number": 4}, {"rows": np.arange(9)})
    journal.append("step", {"number": 5})
    return [_files(folder)]


class _Replays:
    """A journal is replayed to what was written, or refused: a changed bit may not lead to another state."""

    def __init__(self) -> None:
        self.written: str = ""

    def seeds(self, folder: Path) -> list[Files]:
        made = _journals(folder)
        self.written = self.state(folder)
        return made

    @staticmethod
    def state(folder: Path) -> str:
        records = Journal(_in(folder)).replay()
        return repr([(r.number, r.event, r.fields, {n: a.tolist() for n, a in r.arrays.items()}) for r in records])

    def parse(self, folder: Path) -> None:
        assert self.state(folder) == self.written


def _saes(folder: Path) -> list[Files]:
    place, sae = _in(folder), TopKSAE(SAEConfig(6, 20, 4))
    finish(place, "sae", {}, {}, save_sae(place, sae), {"latents": 20, "k": 4})
    return [_files(folder)]


def _foreign_saes(folder: Path) -> list[Files]:
    export_saelens(TopKSAE(SAEConfig(6, 20, 4)), str(folder))
    return [_files(folder)]


def _graphs(folder: Path) -> list[Files]:
    place, rows, k = _in(folder), 6, 2
    indices = np.array([[(i + 1) % rows, (i + 2) % rows] for i in range(rows)], np.int32)
    arrays = {
        "rows": np.arange(rows, dtype=np.int32),
        "indices": indices,
        "similarities": np.full((rows, k), 0.5, np.float32),
    }
    fields = {"method": "exact", "recall": 1.0, "parameters": {"k": k}}
    files = [
        write_blob(place, "rows.safetensors", save({"row_ids": np.arange(rows, dtype=np.int64)})),
        write_blob(place, f"part-{0:012d}-{rows:012d}.safetensors", save(arrays)),
    ]
    finish(place, "graph", {}, {"targets": "t"}, files, {"rows": rows, "fields": fields})
    return [_files(folder)]


def _manifests(folder: Path) -> list[Files]:
    made = [*_pools(folder / "a"), *_saes(folder / "b"), *_graphs(folder / "c")]
    return [{"manifest.json": files["manifest.json"]} for files in made] + [
        {"_started.json": b'{"kind": "pool", "config": {}}'}
    ]


def _read_manifest(folder: Path) -> None:
    if not (folder / "manifest.json").is_file():
        json_of_started = (folder / "_started.json").read_bytes()
        try:
            json.loads(json_of_started)
        except (ValueError, RecursionError) as error:
            raise InputError("no manifest", "none is there") from error
    load_manifest(_in(folder))


_csv, _parquet, _replays = _Answers(), _Answers(), _Replays()
PARSERS = {
    parser.name: parser
    for parser in (
        Parser("run files", _run_files, lambda folder: load_config(str(folder / "run.yaml"))),
        Parser("policy options", lambda folder: [{"train.yaml": _TRAIN}], _read_policy_options),
        Parser("images", _images, lambda folder: decode_image((folder / "image").read_bytes())),
        Parser("tars", _tars, _read_source),
        Parser("tables", _tables, lambda folder: _read_source(folder, feature_columns=["v"])),
        Parser("lines", _lines, lambda folder: _read_source(folder, text_column="text", key_column="id")),
        Parser("text files", _text_files, _read_text_files),
        Parser("matrices", _matrices, lambda folder: _read_source(folder, format="npy")),
        Parser("image metadata", _described_images, _read_source),
        Parser("answers in CSV", _csv.csv, _csv.parse),
        Parser("answers in Parquet", _parquet.parquet, _parquet.parse),
        Parser("manifests", _manifests, _read_manifest),
        Parser("pools", _pools, _read_pool),
        Parser("journals", _replays.seeds, _replays.parse),
        Parser("sparse autoencoders", _saes, lambda folder: load_sae(str(folder))),
        Parser("SAELens folders", _foreign_saes, lambda folder: read_saelens(_in(folder))),
        Parser("graphs", _graphs, lambda folder: load_graph(_in(folder))),
        Parser("graphs in parts", _graphs, lambda folder: open_graph(_in(folder), part_bytes=1)),
    )
}
