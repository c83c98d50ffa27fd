"""What lies in cluster/: manifests, configurations, scripts, and the commands that they name."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
