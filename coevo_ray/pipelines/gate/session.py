"""An open gate, over the life of many processes: open, next, submit, status, export (arXiv 2506.08070).

The folder holds `gate.json` (settings and inputs), the neighbour graph and the journal. The calling process does what
needs no model (answers, status, export); Ray tasks do the rest, with the gate in the selection actor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np

from coevo_ray.actors.protocols import GateCalls, Predictions
from coevo_ray.annotators.base import Annotator, Answers, Desk, Questions
from coevo_ray.annotators.opening import check_annotator, note_given, open_stored
from coevo_ray.config import GateSettings, make_config
from coevo_ray.core.arrays import Float32Array, FloatArray, Int64Array
from coevo_ray.core.gate.config import OfferConfig
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.gate.gate_host import GateHost
from coevo_ray.pipelines.gate.gate_maker import GateMaker
from coevo_ray.pipelines.gate.opened import (
    FORMER_RULE,
    OPENED,
    class_names,
    find_gate,
    inputs_of,
    is_former,
    read_opened,
    write_opened,
)
from coevo_ray.pipelines.gate.submission import Submitted, submit_answers
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import begin
from coevo_ray.store.graph_files import is_large
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.store.manifest import load_manifest
from coevo_ray.store.row_table import RowTable
from coevo_ray.store.shown import shown
from coevo_ray.store.writing import writing

if TYPE_CHECKING:
    # At run time where they are used: what only looks at a gate loads neither Ray nor torch.
    from coevo_ray.core.probes.light_classifier import LightClassifier
    from coevo_ray.core.probes.probe import Scaling
    from coevo_ray.pipelines.gate.learning import Learning
    from coevo_ray.pipelines.gate.offers import Offer, OfferStage

_CLASSIFIER = "classifier.safetensors"
_MEASURED = ("accuracy", "validation_loss", "validation_accuracy")


class GateSession:
    """An open gate.

    Several processes may hold one and change it one after another: `next`, `submit` and a block in which it is `hosted`
    hold its lease, and a second process is refused meanwhile. Each change is also checked against the journal: a
    process that is behind another stops with a `StoppedError` and changes nothing.

    Args:
        location: folder of the gate, or of a run (its `gate/` is taken).

    Attributes:
        location: folder of the gate.
        manifest: of its neighbour graph, which is finished once the gate is open.

    Raises:
        InputError: no gate was opened here, or its pool, targets or graph are not those that it was opened with.
    """

    def __init__(self, location: ArtifactLike) -> None:
        found = find_gate(Location.parse(location))
        if found is None:
            raise InputError(f"no gate was opened at {location}", "open one: coevo-ray gate open")
        location = found
        opened = read_opened(location)
        self.location = location
        self.settings = make_config(GateSettings, opened["settings"], str(location.child(OPENED)), of_folder=True)
        self.pool = Pool(Location.parse(opened["pool"]))
        self.targets = RowTable(Location.parse(opened["targets"]), "targets")
        self.inputs = inputs_of(self.pool, self.targets)
        graph = load_manifest(location.child("graph"), "graph")
        self.manifest = graph
        for have, what in ((opened["inputs"], location.child(OPENED)), (graph.inputs, location.child("graph"))):
            if have != self.inputs:
                raise InputError(
                    f"{what} is of other data: it has {have}, the pool and targets are {self.inputs}",
                    "use the pool and targets that the gate was opened with, or open a new gate",
                )
        self.classes: tuple[str, ...] = tuple(opened["classes"])
        self.rows = int(graph.summary["rows"])
        self._former = is_former(opened["settings"])
        self.scaling: Scaling = "each" if self._former else "one"
        self.rule = self.settings.rule_for(self.rows, len(self.classes), **(FORMER_RULE if self._former else {}))
        offers = OfferConfig(sure=self.settings.pseudo_label, same=self.settings.same)
        compute = self.settings.compute
        maker = GateMaker(self.rule, location, self.targets, offers, compute.actors, compute.cpus)
        self._host = GateHost(maker, self.inputs, [self.pool.location, self.targets.location])

    @classmethod
    def open(cls, config: GateSettings | JsonObject, pool: Pool, targets: RowTable, out: str | Location) -> GateSession:
        """Opens a new gate, or an existing one with the same settings.

        Builds the neighbour graph, which needs Ray.

        Raises:
            InputError: fewer than two classes or rows, or features that cannot be used.
            UsageError: settings were changed, nothing can be written, or the annotator lacks a token or package.
            StoppedError: the store or the cluster failed; open it again to continue.
        """
        config = config if isinstance(config, GateSettings) else make_config(GateSettings, config, "gate")
        location, classes = Location.parse(out), class_names(config, pool)
        check_annotator(config.annotator)
        note_given(config.annotator)
        inputs = inputs_of(pool, targets)
        with writing(location):
            begin(location, "labels", config.content(), inputs)
            from coevo_ray.pipelines.graph import build_graph_artifact
            from coevo_ray.runtime.session import ray_session
            from coevo_ray.runtime.shards import ray_errors

            with ray_session([pool.location, targets.location], [location]), ray_errors("gate"):
                build_graph_artifact(
                    pool,
                    targets,
                    location.child("graph"),
                    neighbours=config.neighbours,
                    seed=config.seed,
                    cpus=config.compute.cpus,
                    centre=True,
                )
            write_opened(location, config, classes, pool, targets)
        return cls(location)

    def write_settings(self, settings: GateSettings) -> None:
        """Stores other settings for the processes that open this gate next.

        Raises:
            StoppedError: the store refused.
        """
        write_opened(self.location, settings, self.classes, self.pool, self.targets)

    # -- where the gate lives ------------------------------------------------------------------------------------

    @contextmanager
    def hosted(self) -> Iterator[GateSession]:
        """Moves the gate into the selection actor for the duration of the block; starts Ray where it does not run."""
        with self._host.hosted():
            yield self

    def changing(self) -> AbstractContextManager[None]:
        """Keeps other processes from changing the gate within the block; a hosted gate does so anyway.

        Raises:
            UsageError: another process changes it now.
        """
        return self._host.changing()

    @property
    def service(self) -> GateCalls:
        """The gate's service: in the actor, or a plain one here."""
        return self._host.service

    # -- rounds --------------------------------------------------------------------------------------------------

    def next(self, predictions: Sequence[Predictions] | None = None) -> Questions:
        """Rows to label now: open ones, else a new round's; none once the gate has stopped.

        If there are new labels, the light classifier is refitted first, in Ray tasks.

        Args:
            predictions: class probabilities of your own model instead, in parts of (row_ids, float32[n, C]); together
                they cover every row of the gate.

        Raises:
            InputError: predictions do not fit.
            UsageError: another process changes the gate now.
            StoppedError: the store or the cluster failed, or another process went ahead; ask again.
        """
        with self.changing():
            if predictions is not None:
                with self._drawing():
                    self.service.update_predictions(*predictions)
                    self.service.request()
            elif not self.service.questions()["row_ids"].size:
                self._request()
        return Questions(**self.service.questions())

    def _request(self) -> None:
        """Begins a round."""
        status = self.service.gate_status()
        if status["rounds"] == 0:
            self.service.request(self.settings.seed_rows(self.rows, len(self.classes)))
            return
        with self._drawing():
            if status["learned_answers"] != status["answers"]:
                self.learn()
            self.service.request()

    def _drawing(self) -> AbstractContextManager[object]:
        """Hosts the gate during a draw if its graph does not lie in the calling process as a whole."""
        apart = self.settings.compute.actors > 1 or is_large((self.rows, self.settings.neighbours))
        return self.hosted() if apart else nullcontext()

    def learn(self) -> JsonObject:
        """Refits the light classifier on all labels and hands its predictions to the gate.

        Returns:
            `labels`, `mean_gain`, `accuracy` on held-out rows, `validation_loss` and `validation_accuracy` on the
            labels for validation (None where there are too few), see `LightClassifier`.

        Raises:
            InputError: there are no labels.
            StoppedError: the store or the cluster failed; ask again.
        """
        from coevo_ray.pipelines.gate.learning import save_classifier

        with self.hosted():
            labelled = self.service.labelled()
            if len(labelled["row_id"]) == 0:
                raise InputError("the gate has no labels to learn from", "submit some first")
            learning = self.learning()
            now, settled = int((~labelled["validation"]).sum()), self._settled_decay()
            handle = self._host.handle
            assert handle is not None
            offered = handle.offered_reference()
            classifier, accuracy = learning.fit(labelled, offered, settled[0] if now < 2 * settled[1] else None)
            rows = self.service.gate_status()["rows"]
            parts = learning.predict(classifier, offered, rows)  # references: the actor reads them itself
            save_classifier(classifier, self.location.child(_CLASSIFIER))
            handle.update_predictions(parts)
            result: JsonObject = self.service.note_learned(
                {
                    "accuracy": accuracy,
                    "validation_loss": classifier.validation_loss,
                    "validation_accuracy": classifier.validation_accuracy,
                    "decay_rows": classifier.decay_rows,
                    "decay_labels": settled[1] if now < 2 * settled[1] else now,
                }
            )
        return result

    def _settled_decay(self) -> tuple[float | None, int]:
        """The chosen weight decay (times labels), and its number of labels; chosen again once they double."""
        history = self.service.history()
        return (history[-1]["decay_rows"], history[-1]["decay_labels"]) if history else (None, 0)

    def learning(self) -> Learning:
        """The light classifier of this gate."""
        from coevo_ray.pipelines.gate.learning import Learning

        settings = self.settings
        return Learning(
            self.targets,
            self.pool.location,
            len(self.classes),
            settings.calibrate,
            settings.l2,
            settings.seed,
            settings.compute.cpus,
            self.scaling,
            by_group=not self._former,
            validates=self.rule.validated_share > 0,
            graph_parts=settings.compute.actors,
        )

    def annotator(self, trust: Sequence[str] = (), url: str | None = None) -> Annotator | Desk:
        """Opens the annotator that the gate's folder names.

        Args:
            trust, url: as in `annotators.opening.open_stored`.

        Raises:
            InputError: it cannot answer for this pool.
            UsageError: it is of a module that `trust` does not name, or of a server not named on this machine.
        """
        return open_stored(self.settings.annotator, self.location, self.pool, self.classes, trust, url)

    def submit(self, *answers: Answers) -> Submitted:
        """Takes answers of one or more annotators; repeats change nothing.

        Answers about rows that the gate does not know (held out, or without a target) are skipped and reported.

        Raises:
            InputError: a label is outside the classes, or a row has two labels by one annotator in one submission.
            UsageError: another process changes the gate now.
            StoppedError: the store failed, or another process went ahead; submit them again.
        """
        with self.changing():
            return submit_answers(self.service, answers)

    # -- arriving rows -------------------------------------------------------------------------------------------

    def offer(
        self,
        features: FloatArray,
        predictions: Float32Array | None = None,
        row_ids: Int64Array | None = None,
    ) -> Offer:
        """Decides on rows that arrive: annotate, pseudo_label or skip. They join the gate and its graph.

        Rows to annotate are requested by the next `next`. Fastest while the gate is `hosted`, or in one process: the
        first offer of a process reads the targets.

        Args:
            features: float[b, d], in the space of the targets.
            predictions: float32[b, C]; None takes those of the gate's light classifier.
            row_ids: int64[b], names by which a repeated offer is known as such; None takes fresh ones.

        Raises:
            InputError: shapes do not fit, or the gate has learned nothing yet.
            StoppedError: the store failed, or another process went ahead; offer them again.
        """
        from coevo_ray.pipelines.gate.offers import Offer

        if row_ids is None:
            row_ids = self.service.fresh_ids(len(features))
        if predictions is None:
            predictions = self.classifier()(features)
        half = np.asarray(features).astype(np.float16)
        return Offer.of(self.service.offer(np.asarray(row_ids), half, np.asarray(predictions, np.float32)))

    def stage(self, features: str = "target", predictions: str | None = None, row_id: str = "row_id") -> OfferStage:
        """A stage for `dataset.map_batches(..., batch_format="numpy")` that offers each batch.

        It adds the columns action, reason, gain, confidence, and pseudo_label (the class, or -1 with other actions).
        Use it while the gate is `hosted`.

        Args:
            features: column of vectors in the space of the targets.
            predictions: column of class probabilities; None takes the gate's light classifier.
            row_id: column of integers that identify rows, so that a batch retried by Ray counts once.

        Raises:
            InputError: the gate has learned nothing yet.
            UsageError: the gate is not hosted.
        """
        from coevo_ray.pipelines.gate.offers import OfferStage

        handle = self._host.handle
        if handle is None:
            raise UsageError("a stage of a gate that is not hosted", "use it inside: with gate.hosted(): ...")
        return OfferStage(handle.gate, features, predictions, row_id, None if predictions else self.classifier())

    def classifier(self) -> LightClassifier:
        """The gate's light classifier, as last fitted.

        Raises:
            InputError: the gate has learned nothing yet.
        """
        if not self.location.child(_CLASSIFIER).is_file():
            raise InputError(
                f"the gate {self.location} has learned nothing yet", "label its first round, then call next"
            )
        from coevo_ray.pipelines.gate.learning import load_classifier

        return load_classifier(self.location.child(_CLASSIFIER))

    @property
    def summary(self) -> JsonObject:
        """Figures so far, see `status`."""
        return self.status()

    def _repr_html_(self) -> str:
        return shown("gate", f"of {self.rows:,} rows at {self.location}", self.status())

    def status(self) -> JsonObject:
        """Rounds, labels, open requests, disputed rows, mean gain, accuracy so far, `forecast`, `stopped_by` (or None).

        `forecast` is that of `core.gate.readings.forecast`.
        """
        status = self.service.gate_status()
        history = self.service.history()
        return {
            "gate": str(self.location),
            "classes": list(self.classes),
            **{name: value for name, value in status.items() if name not in ("learned_answers", "predicted")},
            "label_fraction": round(status["labels"] / self.rows, 6),
            "max_labels": self.rule.max_labels,
            **{name: history[-1][name] if history else None for name in _MEASURED},
            "forecast": self.service.forecast(),
        }
