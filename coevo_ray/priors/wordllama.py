"""WordLlama's static embeddings, whose weights come in its wheel: `wordllama:` or `wordllama:256|128|64[#windows]`.

The default for texts that need no download, as EfficientNet-Lite is for images. The files are read without importing
the package, which would configure logging for the whole process. Its vectors were trained so that their leading values
are embeddings, too: 128 and 64 are the leading dimensions of 256.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.base import LoadedPrior, known, library, make_token_prior, require_modality
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.static import MeanOfTokens
from coevo_ray.priors.text_options import WINDOWED, split_options, windows_of
from coevo_ray.priors.text_tokens import TextTokens
from coevo_ray.priors.weights import read_state, unreadable

_DIMS = ("256", "128", "64")
_CONTEXT = 512  # the library has no limit; that of model2vec
_WEIGHTS, _VOCABULARY = "weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json"
_TABLE = "embedding.weight"
_LICENCE = "MIT; trained from token embeddings of LLaMA 2 70B and others with its vocabulary (see its README)"
_FORM = "wordllama:256|128|64[#windows]"


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`."""
    dim, _ = _split(model)
    known("wordllama model", dim, _DIMS, _FORM)
    require_modality(f"wordllama:{model}", "text", samples)
    _file(model, _WEIGHTS)
    _file(model, _VOCABULARY)


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """See `registry.load_prior`."""
    check(model, input_size, samples)
    (dim, options), path = _split(model), _file(model, _WEIGHTS)
    state = read_state(path)
    if _TABLE not in state:
        raise InputError(f"{path} has no {_TABLE}", "pip install --force-reinstall wordllama")
    library("tokenizers", f"wordllama:{model}", "pip install 'coevo-ray[demo]'")
    vocabulary = _file(model, _VOCABULARY)
    try:
        text = vocabulary.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(vocabulary, error) from error
    tokenize = TextTokens(text, input_size or _CONTEXT, windows_of(options), special=False)
    module = MeanOfTokens(state[_TABLE][:, : int(dim)], None, None, normalize=False)
    return make_token_prior(f"wordllama:{model}", module, int(dim), tokenize, _LICENCE)


def _split(model: str) -> tuple[str, set[str]]:
    dim, options = split_options("wordllama", model, WINDOWED, _FORM)
    return dim or _DIMS[0], options


def _file(model: str, name: str) -> Path:
    found = find_spec("wordllama")
    if found is None or found.origin is None:
        raise UsageError(f"wordllama:{model} needs the package wordllama", "pip install 'coevo-ray[demo]'")
    path = Path(found.origin).parent / name
    if not path.is_file():
        raise InputError(f"wordllama:{model} has no {path}", "pip install --force-reinstall wordllama")
    return path
