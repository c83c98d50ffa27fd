from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.inputs import Samples, TextInput
from coevo_ray.priors.registry import check_prior, load_prior

_MODULE = """
import torch
from torch import nn

class Features(nn.Module):
    def __init__(self, dim=3):
        super().__init__()
        self.dim = dim
    def forward(self, images):
        return images.mean(dim=(2, 3)).repeat(1, self.dim // 3)

class Plain:
    module, dim, input_size = Features(), 3, 8

class Full:
    mean, std, licence = (1.0, 2.0, 3.0), (2.0, 2.0, 2.0), "MIT"
    def __init__(self, input_size=16):
        self.module, self.dim, self.input_size = Features(6), 6, input_size

def make():
    return Plain()

def wrong(**values):
    made = Plain()
    for name, value in values.items():
        setattr(made, name, value)
    return made

class Raises:
    def __init__(self):
        raise FileNotFoundError("my weights are gone")

class NoDim:
    module, input_size = Features(), 8

def bad_module(): return wrong(module=len)
def bad_dim(): return wrong(dim=7)
def zero_dim(): return wrong(dim=0)
def text_size(): return wrong(input_size="8")
def bad_mean(): return wrong(mean=(1.0,))
def bad_std(): return wrong(std=(1.0, 0.0, 1.0))
number = 3
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_encoders_for_test.py").write_text(_MODULE)
    (tmp_path / "my_broken_module_for_test.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_the_users_encoder_is_taken_as_it_is() -> None:
    spec = "callable:my_encoders_for_test:Plain"
    check_prior(spec)
    prior = load_prior(spec)
    assert (prior.info.name, prior.info.input_size, prior.info.dim) == (spec, 8, 3)
    assert prior.info.licence == "not stated"
    white = np.full((2, 8, 8, 3), 255, np.uint8)
    np.testing.assert_allclose(Encoder(prior, "cpu").encode(white), 1.0)  # pixels are scaled to 0..1
    assert load_prior("callable:my_encoders_for_test:make").info.weights == prior.info.weights


def test_mean_std_licence_and_input_size_are_honoured() -> None:
    prior = load_prior("callable:my_encoders_for_test:Full", 4)
    assert (prior.mean, prior.std, prior.info.licence) == ((1.0, 2.0, 3.0), (2.0, 2.0, 2.0), "MIT")
    assert prior.info.input_size == 4
    assert load_prior("callable:my_encoders_for_test:Full").info.input_size == 16
    ones = np.full((1, 4, 4, 3), 5, np.uint8)
    np.testing.assert_allclose(Encoder(prior, "cpu").encode(ones)[0, :3], [2.0, 1.5, 1.0])


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("no_such_module:Plain", "No module named 'no_such_module'"),
        ("my_encoders_for_test:Nothing", "has no attribute 'Nothing'"),
        ("my_encoders_for_test", "cannot be imported"),
        (":Plain", "cannot be imported"),
        ("my_broken_module_for_test:Plain", "ZeroDivisionError"),
        ("my_encoders_for_test:number", "is a int, which cannot be called"),
    ],
)
def test_what_cannot_be_imported_is_refused_before_any_work(name: str, cause: str) -> None:
    with pytest.raises(UsageError, match=cause) as caught:
        check_prior(f"callable:{name}")
    assert "callable:package.module:Class" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("Raises", "my weights are gone"),
        ("NoDim", "has no dim"),
        ("bad_module", "has module = <built-in function len>"),
        ("bad_dim", "dimension 3 and states dim 7"),
        ("zero_dim", "has dim = 0"),
        ("text_size", "has input_size = '8'"),
        ("bad_mean", "1 values for the channels"),
        ("bad_std", "has std"),
    ],
)
def test_what_an_encoder_lacks_is_named(name: str, cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        load_prior(f"callable:my_encoders_for_test:{name}")


def test_a_fixed_input_size_is_kept() -> None:
    with pytest.raises(UsageError, match="takes 8 pixels, 16 were requested"):
        load_prior("callable:my_encoders_for_test:Plain", 16)


_TEXTS = """
import numpy as np
import torch
from torch import nn

class Counts(nn.Module):
    def forward(self, tokens):
        assert tokens.dtype == torch.int64
        return nn.functional.one_hot(tokens, 5).float().sum(dim=1)

def letters(texts, dtype=np.int64, context=4):
    rows = [[ord(c) % 5 for c in text[:context]] + [0] * (context - len(text)) for text in texts]
    return np.array(rows, dtype).reshape(len(texts), -1)

class Text:
    module, dim, context, licence = Counts(), 5, 4, "MIT"
    tokenize = staticmethod(letters)

class Longer:
    def __init__(self, input_size=4):
        self.module, self.dim, self.context = Counts(), 5, input_size
        self.tokenize = Cut(input_size)

class Cut:
    def __init__(self, context):
        self.context = context
    def __call__(self, texts):
        return letters(texts, context=self.context)

class NoContext:
    module, dim = Counts(), 5
    tokenize = staticmethod(letters)

class Method:
    module, dim, context = Counts(), 5, 4
    def tokenize(self, texts):
        return letters(texts)

class Lambda(Text):
    def __init__(self):
        self.tokenize = lambda texts: letters(texts)

class Short(Text):
    context = 6

def floats():
    made = Text()
    made.tokenize = as_floats
    return made

def as_floats(texts):
    return letters(texts, np.float32)
"""


@pytest.fixture
def texts(tmp_path: Path) -> Samples:
    (tmp_path / "my_texts_for_test.py").write_text(_TEXTS)
    return Samples("text")


@pytest.mark.parametrize(("name", "size"), [("Text", None), ("Longer", 4)])
def test_the_users_text_encoder_is_taken_as_it_is(name: str, size: int | None, texts: Samples) -> None:
    spec = f"callable:my_texts_for_test:{name}"
    check_prior(spec, size, texts)
    prior = load_prior(spec, size, texts)
    assert (prior.info.modality, prior.info.input_size, prior.info.dim) == ("text", 4, 5)
    source = pickle.loads(pickle.dumps(prior.input))
    assert isinstance(source, TextInput)
    tokens = source.tokenize(["a", "bcdefg"])  # ord("a") % 5 == 2
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [[2, 0, 0, 0], [3, 4, 0, 1]]
    assert Encoder(prior, "cpu").encode(tokens).tolist() == [[3, 0, 1, 0, 0], [1, 1, 0, 1, 1]]


@pytest.mark.parametrize(
    ("name", "size", "cause"),
    [
        ("NoContext", None, "has no context"),
        ("Method", None, "cannot travel to CPU tasks: it is a method"),
        ("Lambda", None, "cannot travel to CPU tasks"),
        ("Text", 5, "takes 4 tokens, 5 were requested"),
    ],
)
def test_what_a_text_encoder_lacks_is_named(name: str, size: int | None, cause: str, texts: Samples) -> None:
    with pytest.raises(UsageError, match=cause):
        load_prior(f"callable:my_texts_for_test:{name}", size, texts)


@pytest.mark.parametrize(
    ("name", "cause"),
    [("Short", r"2 texts to int64\[2, 4\], need integers \[2, 6\]"), ("floats", r"float32\[2, 4\]")],
)
def test_a_tokenizer_that_breaks_its_word_is_named(name: str, cause: str, texts: Samples) -> None:
    prior = load_prior(f"callable:my_texts_for_test:{name}", None, texts)
    assert isinstance(prior.input, TextInput)
    with pytest.raises(InputError, match=cause):
        prior.input.tokenize(["a", "b"])


def test_other_samples_are_refused(texts: Samples) -> None:
    with pytest.raises(UsageError, match="my_texts_for_test:Text encodes texts, and the pool holds images"):
        load_prior("callable:my_texts_for_test:Text")
    with pytest.raises(UsageError, match="my_encoders_for_test:Plain encodes images, and the pool holds texts"):
        load_prior("callable:my_encoders_for_test:Plain", None, texts)
