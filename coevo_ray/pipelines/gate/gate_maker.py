"""The service of an open gate, made from its folder: here, or in the selection actor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coevo_ray.actors.gate_service import GateService
from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.gate.config import GateConfig, OfferConfig
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.graph.parted import PartedGraph, PartHolders
from coevo_ray.core.graph.types import NeighbourGraph
from coevo_ray.store.graph_files import GraphFiles, GraphPartFiles, load_graph, open_graph, read_half
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable

if TYPE_CHECKING:
    # At run time where they are used: reading a gate loads neither Ray nor torch.
    from coevo_ray.actors.actor import Services
    from coevo_ray.core.gate.online import OnlineGate


@dataclass(frozen=True)
class GateMaker:
    """Builds the service of an open gate; pickles, so that the selection actor builds its own after each start.

    Attributes:
        config: the gate's rule.
        location: folder of the gate, with its graph and journal.
        targets: features of the rows, read when the first rows arrive.
        offers: decisions on arriving rows.
        parts: in which the graph lies while the gate is hosted. 1: the selection actor holds it. More: as many further
            actors do, each a part.
        cpus: that each of those actors reserves.
    """

    config: GateConfig
    location: Location
    targets: RowTable
    offers: OfferConfig
    parts: int = 1
    cpus: float = 1.0

    def __call__(self) -> Services:
        """Builds the gate's service inside the actor."""
        from coevo_ray.actors.actor import Services
        from coevo_ray.actors.graph_actors import GraphActors

        def hold(parts: Sequence[GraphPartFiles]) -> PartHolders:
            return GraphActors([part.read for part in parts], self.cpus)

        if self.parts == 1:
            return Services(gate=self._service(*load_graph(self._place, self.targets)))
        files = GraphFiles.find(self._place, self.targets)
        return Services(gate=self._service(files.open(self.parts, hold), files.row_ids))

    def service(self) -> GateService:
        """Builds the gate's service, without Ray; parts of a large graph are read when they are needed."""
        return self._service(*open_graph(self._place, self.targets))

    def _service(self, graph: NeighbourGraph | PartedGraph, row_ids: Int64Array) -> GateService:
        def online(gate: AnnotationGate) -> OnlineGate:
            """Reads the features, and a graph in parts as a whole, only when rows arrive."""
            from coevo_ray.core.gate.online import OnlineGate
            from coevo_ray.core.graph.growing import GrowingIndex
            from coevo_ray.core.graph.unit_rows import UnitRows

            rows = UnitRows.of(read_half(self.targets, row_ids), centre=True)
            whole = graph if isinstance(graph, NeighbourGraph) else load_graph(self._place, self.targets)[0]
            return OnlineGate(gate, GrowingIndex(rows.read(slice(None)), whole), rows.mean, self.offers)

        gate = AnnotationGate(self.config, graph, np.ones(len(row_ids), dtype=bool))
        return GateService(self.location.child("journal"), gate, row_ids, online)

    @property
    def _place(self) -> Location:
        return self.location.child("graph")
