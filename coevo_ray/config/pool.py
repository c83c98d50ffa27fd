"""Settings of ingest: sources -> pool."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from coevo_ray.config.base import Compute, Model


class SampleSetting(NamedTuple):
    """The setting by which a source declares a modality.

    Attributes:
        column: the setting that names their column.
        plural: the word for several samples, for messages.
    """

    column: str
    plural: str


TEXT = "text"
IMAGE = "image"  # the modality of a source that names no other column
VECTOR = "vector"  # the modality of samples that are nothing but a vector, which is one of the pool's feature columns
NPY = ".npy"
# Modality -> its setting in `Source`. `pool/modality.py` says how samples are read and checked.
SAMPLE_SETTINGS = {
    IMAGE: SampleSetting("image_column", "images"),
    "text": SampleSetting("text_column", "texts"),
    VECTOR: SampleSetting("vector_column", "vectors"),
}


class Source(Model):
    """A source of samples.

    The meaning of a column depends on the format. It is a Parquet column; in WebDataset tars `image_column` and
    `text_column` are extensions of a sample's files, `label_column` and `key_column` fields of its `.json`. Matrices of
    NumPy have no columns: their keys and labels lie in files beside them.
    """

    uri: str = Field(
        min_length=1,
        description="Folder or file: local path, s3://, gs://; sample:digits, sample:docstrings, or with the faults of "
        "real pools sample:messy-digits, sample:messy-docstrings; dataset:NAME.",
    )
    format: Literal["auto", "images", "parquet", "huggingface", "webdataset", "npy", "csv", "jsonl", "texts"] = Field(
        "auto",
        description="Image folders, Parquet, that of a Hugging Face dataset, tars, npy (N x d matrices of vectors), "
        "texts in CSV or JSON Lines, or folders of text files (texts); auto detects it.",
    )
    image_column: str = Field(
        "image", description="Parquet column of encoded image bytes, or extension in tars, by default any image's."
    )
    text_column: str | None = Field(
        None,
        description="Make a pool of texts: their column, or their extension in tars and folders of files (txt).",
    )
    vector_column: str | None = Field(
        None, description="Make a pool of vectors alone: their Parquet column; .npy matrices need none."
    )
    label_column: str | None = Field(
        "label", description="Parquet column or .json field of labels, in tars by default .cls first; null for none."
    )
    key_column: str | None = Field(
        None, description="Parquet column or .json field of your own ids; by default file:row, in tars the name."
    )
    feature_columns: tuple[str, ...] = Field((), description="Parquet columns of vectors to keep in the pool.")
    key_prefix: str | None = Field(
        None, description="Prefix of every key of the source; by default only if file names of sources clash."
    )
    split: Literal["train", "test"] | None = Field(None, description="Put all rows into one split.")
    folders: Literal["auto", "classes", "splits", "none"] = Field(
        "auto",
        description="Meaning of the top folders: classes, splits (with classes below), or nothing; auto decides by "
        "name.",
    )

    @model_validator(mode="after")
    def _check(self) -> Source:
        columns = set(self.feature_columns)
        if len(columns) < len(self.feature_columns):
            raise ValueError(f"feature_columns are named twice: {list(self.feature_columns)}")
        # `vector` is a name that people give their columns; only a pool of vectors has one of its own.
        samples = {*SAMPLE_SETTINGS} - {VECTOR} | {self.modality}
        taken = sorted(columns & {"row_id", "key", *samples, "label", "split", "content"})
        if taken:
            raise ValueError(f"feature_columns {taken} have names of the pool's own columns: rename them")
        named = self._named()
        if len(named) > 1:
            both = " and ".join(SAMPLE_SETTINGS[name].column for name in named)
            raise ValueError(f"{both} are both named: a pool holds one of them")
        return self

    def _named(self) -> list[str]:
        """Modalities other than images whose column is set."""
        others = (name for name in SAMPLE_SETTINGS if name != IMAGE)
        return [name for name in others if getattr(self, SAMPLE_SETTINGS[name].column) is not None]

    @property
    def modality(self) -> str:
        """Name of its samples' modality: of the named column, vectors of matrices, texts of files; else images."""
        is_matrix = self.format == "npy" or (self.format == "auto" and self.uri.lower().endswith(NPY))
        return next(iter(self._named()), VECTOR if is_matrix else TEXT if self.format == "texts" else IMAGE)

    @property
    def data_column(self) -> str:
        """Column of its samples."""
        return str(getattr(self, SAMPLE_SETTINGS[self.modality].column))


class PoolConfig(Model):
    """Ingest: sources -> pool."""

    sources: tuple[Source, ...] = Field(min_length=1, description="One or more sources, in the order of row_ids.")
    test_fraction: float = Field(0.2, ge=0, lt=1, description="Share of rows without a forced split to hold out.")
    classes: int | None = Field(None, ge=2, description="Number of classes; labels outside 0..classes-1 are rejected.")
    verify: bool = Field(True, description="Decode every image now; false leaves bad ones to be rejected by encode.")
    max_reject_fraction: float = Field(
        0.05, ge=0, le=1, description="Maximum share of rejected rows before the job fails."
    )
    shard_rows: int = Field(4096, ge=1, description="Source entries per shard: the unit of work and of resume.")
    seed: int = Field(0, ge=0, description="Seed of the held-out split.")
    max_side: int | None = Field(
        None,
        ge=1,
        description="Scale images whose longer side is above this many pixels down to it; others are unchanged.",
    )
    reject_duplicates: Literal["key", "content"] = Field(
        "key", description="Reject rows with a repeated key, or also those with repeated bytes (or text)."
    )
    compute: Compute = Compute()

    @field_validator("sources", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """A source may be written as its URI alone."""
        if isinstance(value, str):
            value = [value]
        return [{"uri": v} if isinstance(v, str) else v for v in value] if isinstance(value, list | tuple) else value

    @property
    def modality(self) -> str:
        """Name of the modality of its sources."""
        return self.sources[0].modality

    @model_validator(mode="after")
    def _check(self) -> PoolConfig:
        kinds = list(dict.fromkeys(source.modality for source in self.sources))
        if len(kinds) > 1:
            words = [f"{SAMPLE_SETTINGS[kind].plural} ({SAMPLE_SETTINGS[kind].column})" for kind in kinds]
            raise ValueError(f"some sources hold {' and some '.join(words)}: make a pool of each")
        features = [sorted(source.feature_columns) for source in self.sources]
        if any(names != features[0] for names in features):
            raise ValueError(f"sources keep different feature_columns: {features}; a pool needs the same of every row")
        if self.max_side is not None and kinds != [IMAGE]:
            raise ValueError(
                f"max_side is for images, the sources hold {SAMPLE_SETTINGS[kinds[0]].plural}: leave it out"
            )
        return self
