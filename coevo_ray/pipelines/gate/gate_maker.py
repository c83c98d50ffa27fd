"""The service of an open gate, made from its folder: here, or in the selection actor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coevo_ray.actors.gate_service import GateService
from coevo_ray.core.gate.config import GateConfig, OfferConfig
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.store.graph_files import load_graph, read_half
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
    """

    config: GateConfig
    location: Location
    targets: RowTable
    offers: OfferConfig

    def __call__(self) -> Services:
        """Builds the gate's service inside the actor."""
        from coevo_ray.actors.actor import Services

        return Services(gate=self.service())

    def service(self) -> GateService:
        """Builds the gate's service."""
        graph, row_ids = load_graph(self.location.child("graph"), self.targets)

        def online(gate: AnnotationGate) -> OnlineGate:
            """Reads the features only when rows arrive: until then the graph is enough."""
            from coevo_ray.core.gate.online import OnlineGate
            from coevo_ray.core.graph.growing import GrowingIndex
            from coevo_ray.core.graph.unit_rows import UnitRows

            rows = UnitRows.of(read_half(self.targets, row_ids), centre=True)
            return OnlineGate(gate, GrowingIndex(rows.read(slice(None)), graph), rows.mean, self.offers)

        gate = AnnotationGate(self.config, graph, np.ones(len(row_ids), dtype=bool))
        return GateService(self.location.child("journal"), gate, row_ids, online)
