"""Models on the Hugging Face Hub, or in a folder: checks before any work that they are there or can be downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from coevo_ray.errors import InputError
from coevo_ray.priors.base import library
from coevo_ray.priors.weights import FILE_LICENCE, READ_ERRORS, check_download, not_fetched

# Weights of other frameworks beside those that are loaded.
_UNUSED = ["*.onnx", "onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.gguf"]


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


def local_folder(name: str, prior: str) -> Path | None:
    """The folder that a model's name is; None where it is one of the Hub.

    Args:
        name: a repository's name or a path.
        prior: scheme:model, for the message.

    Raises:
        InputError: the name is a relative path, or there is no such folder.
    """
    path = Path(name)
    if not path.is_absolute():
        if name.startswith((".", "~")) or path.is_dir():  # workers run in folders of their own
            raise InputError(f"{prior}: the path {name} is relative", "give an absolute path, the same on every node")
        return None
    if not path.is_dir():
        raise InputError(f"{prior}: there is no folder {name}", "check the path; it must be there on every node")
    return path


def check_model(name: str, files: Sequence[str], prior: str) -> None:
    """Checks that a model is in a folder, in the cache or can be downloaded.

    Args:
        name: a repository's name, perhaps with @REVISION, or the absolute path of a folder.
        files: names of which one must be there, best first.
        prior: scheme:model, for the message.

    Raises:
        UsageError: huggingface_hub is missing.
        InputError: the model is nowhere, or the folder holds none.
    """
    folder = local_folder(name, prior)
    if folder is None:
        remedy = "set HF_HOME to a cache that holds it on every node, or give the absolute path of a folder"
        check_file(name, files, prior, remedy)
    elif not any((folder / file).is_file() for file in files):
        raise InputError(
            f"{prior}: {folder} holds no model, it has no {' or '.join(files)}",
            "give the folder that save_pretrained wrote",
        )


def model_folder(name: str, prior: str) -> str:
    """The folder of a model; one of the Hub is downloaded to the cache.

    Args:
        name: a repository's name, perhaps with @REVISION, or the absolute path of a folder.
        prior: scheme:model, for the message.

    Raises:
        InputError: there is no such folder.
        OSError: a download failed; see `loading`.
    """
    folder = local_folder(name, prior)
    if folder is not None:
        return str(folder)
    package = library("huggingface_hub", prior, "pip install huggingface_hub")
    repository, _, revision = name.partition("@")
    return str(package.snapshot_download(repository, revision=revision or None, ignore_patterns=_UNUSED))


@contextmanager
def loading(prior: str) -> Iterator[None]:
    """Turns the errors of a library that loads a model into one with a remedy.

    Args:
        prior: scheme:model.

    Raises:
        InputError: the model cannot be downloaded or read.
    """
    try:
        yield
    except (*READ_ERRORS, TypeError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"cannot load {prior}: {reason}", "check the model: load it with its own library") from error


def licence(name: str) -> str:
    """A note about the licence of a model."""
    return FILE_LICENCE if Path(name).is_absolute() else f"weights as stated at huggingface.co/{name.partition('@')[0]}"
