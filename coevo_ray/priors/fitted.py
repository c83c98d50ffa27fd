"""States of priors that are fitted to the shared set before they encode: one safetensors file, named after its hash.

The hash is the identity of the prior's weights. Files are framed as parts and journals are, with a checksum.
"""

from __future__ import annotations

from coevo_ray.core.arrays import ArrayMapping, Arrays
from coevo_ray.errors import InputError
from coevo_ray.store import record_format
from coevo_ray.store.digests import digest, digest_array
from coevo_ray.store.location import Location

PREFIX = "fitted-"
_NAMED = 16  # characters of the hash in a name


def state_hash(arrays: ArrayMapping) -> str:
    """Identity of a state: SHA-256 (hex, 16 bytes) over the names, dtypes, shapes and values of its arrays."""
    return digest({name: digest_array(array) for name, array in arrays.items()})


def state_name(weights: str) -> str:
    """Name of the file of a state with this hash."""
    return f"{PREFIX}{weights[:_NAMED]}.safetensors"


def read_state(file: Location) -> tuple[Arrays, str]:
    """Reads a state.

    Args:
        file: its file.

    Returns:
        Its arrays, and its hash.

    Raises:
        InputError: the file is missing or damaged, or holds another state than its name says.
    """
    data = file.read_bytes()
    try:
        arrays = record_format.decode(data).arrays
    except record_format.DAMAGED as error:
        raise _damaged(file, ascii(str(error))[:200]) from error
    weights = state_hash(arrays)
    if file.name != state_name(weights):
        raise _damaged(file, f"its content belongs to {state_name(weights)}")
    return arrays, weights


def _damaged(file: Location, reason: str) -> InputError:
    return InputError(f"{file} is damaged: {reason}", "restore it, or encode again elsewhere")
