"""Files on the Hugging Face Hub: checks before any work that they are cached or can be downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coevo_ray.errors import InputError
from coevo_ray.priors.base import library
from coevo_ray.priors.weights import check_download, not_fetched


def cached_file(repository: str, files: Sequence[str]) -> Path | None:
    """The first of these files that is in the cache; None without one.

    Args:
        repository: its name on the Hub, perhaps with @REVISION.
        files: names, best first.
    """
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = repository.partition("@")
    found = [try_to_load_from_cache(name, file, revision=revision or None) for file in files]
    return next((Path(path) for path in found if isinstance(path, str)), None)


def check_file(repository: str, files: Sequence[str], prior: str, remedy: str) -> None:
    """Checks that one of these files is in the cache or can be downloaded.

    Args:
        repository: its name on the Hub, perhaps with @REVISION.
        files: names, best first.
        prior: scheme:model, for the message.
        remedy: the way to do without the download, for the message.

    Raises:
        UsageError: huggingface_hub is missing.
        InputError: none of them is.
    """
    hub = library("huggingface_hub", prior, "pip install huggingface_hub")
    constants = library("huggingface_hub.constants", prior, "pip install huggingface_hub")
    if cached_file(repository, files) is not None:
        return
    if constants.HF_HUB_OFFLINE:
        raise not_fetched(prior, "HF_HUB_OFFLINE is set", remedy)
    name, _, revision = repository.partition("@")
    for file in files:
        url = hub.hf_hub_url(name, file, revision=revision or None)
        try:
            check_download(url, prior, remedy, hub.utils.build_hf_headers())
            return
        except InputError:
            if file == files[-1]:
                raise
