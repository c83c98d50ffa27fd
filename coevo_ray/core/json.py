"""The type of JSON objects."""

from __future__ import annotations

from typing import Any

# What `json.loads` gives for an object; settings, summaries and manifests are such.
JsonObject = dict[str, Any]
