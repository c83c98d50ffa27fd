"""The card of an artifact of tables: a README.md with the head that the Hugging Face Hub and `datasets` read.

With it `datasets.load_dataset(FOLDER)` reads the artifact's Parquet, whatever lies beside it.
"""

from __future__ import annotations

import yaml

from coevo_ray.store.location import Location
from coevo_ray.store.manifest import Manifest

CARD = "README.md"
_MEANING = {
    "labels": "Labels that people or an oracle gave to rows of a pool, with the number of votes; the "
    "configuration `answers` has every answer. Join by `row_id`, or by the pool's `key`.",
    "pseudo_labels": "Labels that follow from a model, its neighbours or near-duplicates; `source` says which.",
    "duplicates": "Rows of a pool that are near-duplicates of one another: `group` is the row_id of a group's leader, "
    "`kept` marks the rows that stay, `leak` training rows whose group has a held-out row.",
    "subset": "The rows of one epoch, with the weights of their losses.",
    "scores": "Scores of a pool's rows by the factors of a sparse autoencoder.",
    "codes": "Active factors of a pool's rows, with their values.",
    "evidence": "Evidence on the labels of a pool's rows: `doubt` is the probability that `label` is wrong, `likely` "
    "the likeliest class, `group` equal for near-duplicates.",
}


def hub_head(manifest: Manifest, title: str) -> str:
    """The YAML head of a card: a configuration for each kind of Parquet file, the largest first.

    Args:
        manifest: names the files.
        title: shown by the Hub.
    """
    tables: dict[str, list[str]] = {}
    for entry in manifest.files:
        if entry.path.endswith(".parquet"):
            tables.setdefault(_kind(entry.path), []).append(entry.path)
    main = [kind for kind in (manifest.kind, *tables) if kind in tables][:1]
    configs = [
        {
            "config_name": "default" if [kind] == main else kind,
            "data_files": [{"split": "train", "path": paths[0] if len(paths) == 1 else f"{kind}-*.parquet"}],
        }
        for kind, paths in sorted(tables.items(), key=lambda table: [table[0]] != main)
    ]
    head = {"pretty_name": title, "tags": ["coevo-ray", manifest.kind.replace("_", "-")], "configs": configs}
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n"


def write_dataset_card(location: Location, manifest: Manifest) -> None:
    """Writes `README.md` beside a finished artifact of tables, where it is not there as it should be.

    Raises:
        StoppedError: the store refused.
    """
    title = manifest.kind.replace("_", " ").capitalize()
    lines = [f"# {title}", "", _MEANING.get(manifest.kind, ""), "", f"{manifest.rows:,} rows.", ""]
    lines += ["```python", "import datasets", "", 'rows = datasets.load_dataset("this folder", split="train")', "```"]
    content = (hub_head(manifest, title) + "\n".join(lines) + "\n").encode()
    file = location.child(CARD)
    if not file.is_file() or file.read_bytes() != content:
        file.write_bytes(content)


def _kind(path: str) -> str:
    """The kind of a file, by its name: `targets` of `targets-00003.parquet`."""
    return path.removesuffix(".parquet").rsplit("-", 1)[0]
