"""Names of files after their content, so that none replaces a file of a former artifact."""

from __future__ import annotations

import hashlib


def content_name(prefix: str, content: bytes) -> str:
    """Names a safetensors file by a prefix and a hash of its content."""
    return f"{prefix}{hashlib.sha256(content).hexdigest()[:12]}.safetensors"
