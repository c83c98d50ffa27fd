"""The one configuration model: a run is described by a `RunConfig`, from YAML or Python, validated before any work.

Unknown keys are refused. Every stage has two kinds of settings: those that shape its result (they are recorded in the
artifact's manifest, and changing them is refused) and `compute`, which only says with what it is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from coevo_ray.core.policies import KeptShares, Policy, make_policy
from coevo_ray.errors import UsageError

ModelT = TypeVar("ModelT", bound=BaseModel)
Share = Annotated[float, Field(gt=0, le=1)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def content(self) -> dict[str, Any]:
        """The settings that shape the result, JSON-able: everything but `compute`."""
        return self.model_dump(mode="json", exclude={"compute"})


class _Compute(_Model):
    cpus: float = Field(0.5, gt=0, description="CPUs that each of them reserves; it also sets their threads.")
    gpus: float = Field(0, ge=0, description="GPUs that each of them reserves; 0 means CPU.")
    batch_rows: int = Field(64, ge=1, description="Rows of one forward pass.")
    reader_cpus: float = Field(0.5, gt=0, description="CPUs that each reading or decoding task reserves.")


class Compute(_Compute):
    """With what a stage runs; never changes its result."""

    actors: int = Field(1, ge=1, description="Actors (or Ray Train workers) that work side by side.")


class EncodeCompute(_Compute):
    """With what a prior runs; never changes its result."""

    actors: int | None = Field(None, ge=1, description="Actors of each prior; null for as many as there is room for.")


class Source(_Model):
    """Where samples come from.

    What a column is depends on the format: a Parquet column; in WebDataset tars `image_column` and `text_column` are
    extensions of a sample's files, `label_column` and `key_column` fields of its `.json`.
    """

    uri: str = Field(min_length=1, description="Folder or file: local path, s3://, gs://; sample:digits; dataset:NAME.")
    format: Literal["auto", "images", "parquet", "huggingface", "webdataset"] = Field(
        "auto", description="Image folder, Parquet, the Parquet of a Hugging Face dataset, or tars; auto looks."
    )
    image_column: str = Field("image", description="Column with encoded image bytes.")
    text_column: str | None = Field(None, description="Column with texts: then samples are texts, not images.")
    label_column: str | None = Field("label", description="Column with integer labels; null for none.")
    key_column: str | None = Field(None, description="Column with the user's own id; null for file:row.")
    feature_columns: tuple[str, ...] = Field((), description="Parquet columns of vectors to keep in the pool.")
    key_prefix: str | None = Field(None, description="Put before every key; null: only where sources' files clash.")
    split: Literal["train", "test"] | None = Field(None, description="Force all rows into one split.")

    @model_validator(mode="after")
    def _check(self) -> Source:
        columns = set(self.feature_columns)
        if len(columns) < len(self.feature_columns):
            raise ValueError(f"feature_columns are named twice: {list(self.feature_columns)}")
        taken = sorted(columns & {"row_id", "key", "image", "text", "label", "split", "content"})
        if taken:
            raise ValueError(f"feature_columns {taken} have names of the pool's own columns: rename them")
        return self


class PoolConfig(_Model):
    """Ingest: sources -> pool."""

    sources: tuple[Source, ...] = Field(min_length=1, description="One or more sources, in the order of row_ids.")
    test_fraction: float = Field(0.2, ge=0, lt=1, description="Share of rows without a forced split to hold out.")
    classes: int | None = Field(None, ge=2, description="Number of classes; labels outside 0..classes-1 are rejected.")
    verify: bool = Field(True, description="Decode every image now; false leaves bad ones to be rejected by encode.")
    max_reject_fraction: float = Field(0.05, ge=0, le=1, description="More rejected rows than this end the job.")
    shard_rows: int = Field(4096, ge=1, description="Source entries per shard: the unit of work and of resume.")
    seed: int = Field(0, ge=0, description="Seed of the held-out split.")
    max_side: int | None = Field(
        None, ge=1, description="Images with a longer side above this many pixels are scaled to it; others stay as is."
    )
    reject_duplicates: Literal["key", "content"] = Field(
        "key", description="Reject rows whose key came before, or also those whose bytes (or text) did."
    )
    compute: Compute = Compute()

    @field_validator("sources", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """A source may be written as its URI alone."""
        if isinstance(value, str):
            value = [value]
        return [{"uri": v} if isinstance(v, str) else v for v in value] if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _check(self) -> PoolConfig:
        if len({source.text_column is None for source in self.sources}) > 1:
            raise ValueError("some sources hold texts (text_column) and some images: make a pool of each")
        features = [sorted(source.feature_columns) for source in self.sources]
        if any(names != features[0] for names in features):
            raise ValueError(f"sources keep different feature_columns: {features}; a pool needs the same of every row")
        if self.max_side is not None and self.sources[0].text_column is not None:
            raise ValueError("max_side is for images, the sources hold texts: leave it out")
        return self


class PriorConfig(_Model):
    """A participant: a prior model and the share of the pool that it encodes."""

    name: str = Field(min_length=3, description="scheme:model, for instance efficientnet_lite:0.")
    input_size: int | None = Field(None, ge=8, description="Pixels of its square input; null for the model's own.")
    weight: float = Field(1.0, gt=0, description="Its share of the pool relative to the other participants.")
    compute: EncodeCompute | None = Field(None, description="With what it runs; null for that of all participants.")

    @property
    def label(self) -> str:
        """What tells it from the others: its name, with the input size where one was chosen."""
        return self.name if self.input_size is None else f"{self.name}@{self.input_size}"


Alignment = Literal["ridge", "procrustes", "none"]


class MergeConfig(_Model):
    """Merge: contributions -> targets (CoOpt)."""

    reference: str | None = Field(None, description="Reference: a prior's name, its name@pixels, or its place, from 0.")
    alignment: Alignment = Field("ridge", description="How targets are brought to one space; none leaves them apart.")
    allow_overlap: bool = Field(False, description="Let several contributions hold a row; the first one's is taken.")
    seed: int = Field(0, ge=0, description="Seed of the shared rows that are held out to measure alignment.")


class EncodeConfig(_Model):
    """Encode: pool -> contributions -> targets (CoOpt)."""

    priors: tuple[PriorConfig, ...] = Field(min_length=1, description="The participants, in order.")
    dim: int = Field(128, ge=2, description="Common dimension n of the targets.")
    shared: float | str = Field(
        0.1, description="Shared set: a share of the pool below 1, a number of rows, or the folder of a pool."
    )
    part: tuple[int, int] | None = Field(
        None, description="A lone participant's part of the pool: [which, of how many], from 0; null for all rows."
    )
    reference: str | None = Field(None, description="Reference: a prior's name, its name@pixels, or its place, from 0.")
    alignment: Alignment = Field("ridge", description="How targets are brought to one space; none leaves them apart.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Of the forward pass; auto is float32 on CPUs and half precision on GPUs."
    )
    compile: bool = Field(False, description="Compile the priors with torch.compile; pays off on long jobs.")
    max_reject_fraction: float = Field(0.05, ge=0, le=1, description="More rejected rows than this end the job.")
    shard_rows: int | None = Field(
        None, ge=1, description="Pool rows per shard: the unit of work and of resume; null derives it from input sizes."
    )
    seed: int = Field(0, ge=0, description="Seed of projection, shared set and assignment.")
    compute: EncodeCompute = EncodeCompute()

    @field_validator("priors", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """A prior may be written as its name alone."""
        return [{"name": v} if isinstance(v, str) else v for v in value] if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _check(self) -> EncodeConfig:
        names = [prior.label for prior in self.priors]
        if len(set(names)) < len(names):
            raise ValueError(f"priors are named twice: {names}")
        known = {*names, *(prior.name for prior in self.priors), *(str(i) for i in range(len(names)))}
        if self.reference is not None and self.reference not in known:
            raise ValueError(f"reference {self.reference!r} is not one of the priors {names}")
        if isinstance(self.shared, float) and not (0 < self.shared < 1 or self.shared == int(self.shared) > 0):
            raise ValueError(f"shared = {self.shared}: give a share below 1, whole rows, or a pool's folder")
        if self.part is not None and not (len(names) == 1 and 0 <= self.part[0] < self.part[1]):
            raise ValueError(f"part = {list(self.part)}: it is for one prior alone, [which, of how many], from 0")
        return self

    @property
    def alone(self) -> bool:
        """Whether one participant works for itself: it makes a contribution and leaves merging to others."""
        return len(self.priors) == 1 and (isinstance(self.shared, str) or self.part is not None)

    def compute_of(self, index: int) -> EncodeCompute:
        """With what a participant runs."""
        return self.priors[index].compute or self.compute

    def merging(self) -> MergeConfig:
        """The settings of its second half."""
        return MergeConfig(reference=self.reference, alignment=self.alignment, seed=self.seed)


class SaeConfig(_Model):
    """Sparse autoencoder: targets -> factors, codes and scores."""

    latents: int = Field(512, ge=2, description="Number of factors m.")
    k: int = Field(16, ge=1, description="Active factors of a row.")
    epochs: int = Field(40, ge=1, description="Passes over the training rows at most.")
    batch_rows: int = Field(256, ge=1, description="Rows of a global batch.")
    learning_rate: float = Field(2e-3, gt=0, description="Adam's step, decayed to zero over the last fifth.")
    window_rows: int = Field(
        1_000_000, ge=1, description="Explained variance is looked at after each pass or so many rows; state is saved."
    )
    patience: int | None = Field(
        5, ge=1, description="Looks without improvement after which the last fifth begins; null: never early."
    )
    min_improvement: float = Field(1e-3, ge=0, description="Rise of the explained variance that counts as one.")
    rare_quantile: float = Field(0.5, gt=0, lt=1, description="Factors up to this quantile of frequency are rare.")
    seed: int = Field(0, ge=0, description="Seed of the start and of the order of rows.")
    compute: Compute = Compute(actors=1, cpus=1)

    @model_validator(mode="after")
    def _check(self) -> SaeConfig:
        if self.k > self.latents:
            raise ValueError(f"k = {self.k} active factors of only {self.latents} latents")
        return self


class GateSettings(_Model):
    """Annotation gate: which rows get a label."""

    annotator: Literal["label_column"] = Field("label_column", description="Who answers requests.")
    rule: Literal["margin", "compat"] = Field("margin", description="Gain and draw: ours, or as published.")
    seed_fraction: Share = Field(0.05, description="Random labels to begin with, as a share of the training rows.")
    round_fraction: Share = Field(0.03, description="Labels asked for in a round, as a share of the training rows.")
    neighbours: int = Field(16, ge=1, description="Neighbours of a row in the graph.")
    relative_gain: float = Field(
        0.1, ge=0, lt=1, description="Stop when mean gain falls below this share of the first."
    )
    accuracy_patience: int = Field(4, ge=1, description="Stop after so many rounds without better accuracy.")
    accuracy_tolerance: float = Field(0.002, ge=0, description="Accuracy that counts as better.")
    max_label_fraction: Share = Field(1.0, description="Never ask for more than this share of the training rows.")
    max_rounds: int = Field(100, ge=1, description="Never ask more often.")
    l2: float = Field(1e-3, gt=0, description="Weight decay of the light classifier that is refitted each round.")
    seed: int = Field(0, ge=0, description="Seed of random requests.")
    compute: Compute = Compute(cpus=1)


class EvidenceConfig(_Model):
    """Evidence: what the targets say about labels that may be wrong and about near-duplicates."""

    doubt: bool = Field(True, description="Look for labels that are likely wrong.")
    copies: bool = Field(True, description="Look for near-duplicates; builds a neighbour graph of the training rows.")
    similarity: float = Field(
        0.7, gt=0, le=1, description="Cosine similarity of centred targets from which rows may be near-duplicates,"
    )
    margin: float = Field(
        0.2, ge=0, le=2, description="if it exceeds that of the last neighbour of either row by this much,"
    )
    same: float = Field(0.95, gt=0, le=1, description="or where they are as similar as this.")
    neighbours: int = Field(16, ge=1, le=127, description="Neighbours of a row in the graph.")
    probe_rows: int = Field(100_000, ge=2, description="Most labelled rows that the light classifiers are fitted on.")
    l2: float = Field(1e-3, gt=0, description="Weight decay of the light classifiers.")
    seed: int = Field(0, ge=0, description="Seed of the sample and of its folds.")
    compute: Compute = Compute(cpus=1)


class TrainCompute(Compute):
    """With what a training runs, and what it writes besides its result."""

    checkpoint_steps: int = Field(
        1000, ge=0, description="Also checkpoint after every so many steps inside an epoch; 0 only at epochs' ends."
    )
    tensorboard: bool = Field(False, description="Also write every epoch's figures as TensorBoard event files.")


class LearningConfig(_Model):
    """What every objective trains with: network, optimizer, schedule, precision."""

    model: str = Field(
        "small_cnn", min_length=1, description="small_cnn, torchvision:NAME, timm:NAME or package.module:function."
    )
    stem: Literal["standard", "small"] = Field(
        "standard", description="small: a 3x3 first layer of stride 1 and no max-pool, in ResNets and DenseNets."
    )
    image_size: int = Field(32, ge=4, description="Pixels of the square network input.")
    epochs: int = Field(10, ge=1, description="Epochs of the full schedule.")
    batch_rows: int = Field(64, ge=1, description="Rows of a global batch, over all workers.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with Nesterov's momentum, or AdamW.")
    learning_rate: float = Field(0.05, gt=0, description="Peak of the schedule.")
    schedule: Literal["onecycle", "cosine", "constant"] = Field(
        "onecycle", description="How the learning rate falls after the warm-up, by steps."
    )
    warm_up: float = Field(0.3, ge=0, lt=1, description="Share of all steps in which the learning rate rises.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD, or AdamW's first beta.")
    weight_decay: float = Field(5e-4, ge=0, description="L2 on the weights; with AdamW decoupled.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="bfloat16 and float16 compute under autocast; float16 is for GPUs, with scaled gradients.",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay per step of averaged weights, which are judged and saved beside the others.",
    )
    clip_norm: float | None = Field(None, gt=0, description="Longer gradients are scaled to this length.")
    seed: int = Field(0, ge=0, description="Seed of initialisation, order and augmentation.")
    compute: TrainCompute = TrainCompute()

    @model_validator(mode="after")
    def _check_precision(self) -> LearningConfig:
        if self.precision == "float16" and self.compute.gpus == 0:
            raise ValueError("precision float16 needs a GPU: set compute.gpus, or take bfloat16")
        return self


class TrainConfig(LearningConfig):
    """Training on each epoch's subset."""

    augment: Literal["none", "shift", "shift_flip"] = Field("none", description="Random shifts, or also mirror images.")
    labels: Literal["pool", "gate"] = Field("gate", description="Train on all of the pool's labels or the gate's.")
    policies: tuple[str, ...] = Field(
        ("factors",), min_length=1, description="One training for each; or package.module:Class for one of yours."
    )
    policy_options: dict[str, dict[str, Any]] = Field({}, description="Policy -> options of its own.")
    class_power: float | None = Field(
        None, ge=0, le=1, description="Class quotas in proportion to size ** this: 0 is equal; default: no quotas."
    )
    unbiased: bool = Field(False, description="Weigh rows by the inverse of their chance to be selected.")
    keep: Share = Field(0.5, description="Kept share: rows of an epoch over all training rows.")
    keep_last: Share | None = Field(None, description="Kept share of the last epoch; linear between. Default: as keep.")
    full_tail: float = Field(0.0, ge=0, le=1, description="Share of the epochs, at the end, on all rows.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of a label that all classes divide.")
    compute: TrainCompute = TrainCompute(actors=2, cpus=0.75)

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if len(set(self.policies)) < len(self.policies):
            raise ValueError(f"policies are named twice: {list(self.policies)}")
        if unknown := self.policy_options.keys() - set(self.policies):
            raise ValueError(f"policy_options for {sorted(unknown)}, policies are {list(self.policies)}")
        for policy in self.policies:
            try:
                self.make_policy(policy)
            except UsageError as error:
                raise ValueError(str(error)) from error
        return self

    def make_policy(self, name: str) -> Policy:
        """One of the policies, with its options.

        Raises:
            UsageError: the name is unknown, or an option is.
        """
        options = self.policy_options.get(name, {})
        if general := sorted(options.keys() & {"class_power", "unbiased"}):
            raise UsageError(f"policy {name}: {', '.join(general)} is for all policies", "set it under train: itself")
        return make_policy(name, class_power=self.class_power, unbiased=self.unbiased, **options)

    @property
    def shares(self) -> KeptShares:
        """The kept share of every epoch."""
        return KeptShares(self.keep, self.keep_last, self.full_tail)


class TargetTrainConfig(LearningConfig):
    """Training on stored targets: a fresh network regresses them, without labels (CoOpt)."""

    head: Literal["linear", "mlp"] = Field("linear", description="What maps the network's features to targets.")
    centre: bool = Field(True, description="Regress targets less their mean, which says nothing about a row.")
    min_crop: Share = Field(0.2, description="Smallest share of an image's area in a view; 1 does not crop.")
    flip: bool = Field(True, description="Mirror half of the views.")
    colour: float = Field(1.0, ge=0, le=2, description="Strength of the views' colour jitter; 0 leaves colours.")
    epochs: int = Field(20, ge=1, description="Passes over the training rows, two views of each row in each.")
    batch_rows: int = Field(128, ge=2, description="Rows of a global batch, over all workers.")
    optimizer: Literal["sgd", "adamw"] = Field("adamw", description="SGD with Nesterov's momentum, or AdamW.")
    learning_rate: float = Field(0.002, gt=0, description="Peak of the schedule.")
    warm_up: float = Field(0.1, ge=0, lt=1, description="Share of all steps in which the learning rate rises.")
    weight_decay: float = Field(0.05, ge=0, description="L2 on the weights; with AdamW decoupled.")
    evaluate_every: int = Field(0, ge=0, description="Also probe after every so many epochs; 0 only at the end.")
    probe_rows: int = Field(50_000, ge=1, description="Most labelled rows of a split that the probes read.")
    compute: TrainCompute = TrainCompute(cpus=1)


class RunConfig(_Model):
    """A whole run: what `coevo-ray run FILE.yaml` reads."""

    title: str = Field("coevo-ray run", description="Heading of the report.")
    out: str = Field(min_length=1, description="Folder of the run: local path, s3:// or gs://.")
    pool: PoolConfig
    encode: EncodeConfig
    sae: SaeConfig = SaeConfig()
    gate: GateSettings | None = GateSettings()
    evidence: EvidenceConfig | None = EvidenceConfig()
    train: TrainConfig | None = TrainConfig()

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.encode.alone:
            raise ValueError("encode.part and a lone prior with a shared pool are for `coevo-ray encode`: a run merges")
        if self.train is not None and self.train.labels == "gate" and self.gate is None:
            raise ValueError("train.labels is 'gate' but there is no gate: set train.labels to 'pool' or add the gate")
        return self


def load_config(path: str | Path, **overrides: Any) -> RunConfig:
    """Reads a run's YAML.

    Args:
        path: the file.
        overrides: top-level values that replace those of the file, such as `out`.

    Raises:
        UsageError: the file is missing, not YAML, or does not describe a run; every mistake is named.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error}", "check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {error}", "mend the line that is named") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no settings", "start from examples/digits.yaml")
    return make_config(RunConfig, {**content, **overrides}, str(path))


def make_config(model: type[ModelT], content: dict[str, Any], where: str) -> ModelT:
    """Validates settings.

    Args:
        model: RunConfig or the model of one stage.
        content: the settings.
        where: what to call them in errors.

    Raises:
        UsageError: naming every key that is unknown, missing or out of bounds.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{where}: " + "; ".join(_plain(e) for e in error.errors()), _remedy(model)) from error


def _plain(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "settings"
    if error["type"] == "extra_forbidden":
        return f"unknown key {place}"
    if error["type"] == "missing":
        return f"{place} is missing"
    have = error.get("input")
    shown = f" (have {have!r})" if isinstance(have, str | int | float | bool) else ""
    return f"{place}: {error['msg'].removeprefix('Value error, ')}{shown}"


def _remedy(model: type[BaseModel]) -> str:
    return f"keys here are {', '.join(model.model_fields)}; examples/digits.yaml is a complete file"
