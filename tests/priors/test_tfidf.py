"""TF-IDF that is fitted to a shared set."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.arrays import Float32Array
from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.base import Prior
from coevo_ray.priors.fitted import state_hash, state_name
from coevo_ray.priors.inputs import Samples, VectorInput
from coevo_ray.priors.registry import fit_prior, is_fitted, load_prior
from coevo_ray.store.location import Location
from coevo_ray.store.parts import Parts

TEXT = Samples("text")
SHARED = [f"the word w{i % 7} and the other v{i % 5} in text {i % 11}" for i in range(60)]


def loaded(folder: Path, name: str, size: int | None = None) -> Prior:
    state = fit_prior(name, size, TEXT, SHARED)
    entry = Parts.of(Location.parse(folder), "test").write_arrays(state_name(state_hash(state)), state)
    return load_prior(name, size, TEXT, Location.parse(folder).child(entry.path))


def vectors(prior: Prior, texts: list[str]) -> Float32Array:
    assert isinstance(prior.input, VectorInput)
    return prior.input.prepare(pa.chunked_array([pa.array(texts, pa.string())]))


@pytest.mark.parametrize(("name", "size"), [("tfidf:", None), ("tfidf:words", 8), ("tfidf:chars", 16)])
def test_vectors_are_those_of_scikit_learn(tmp_path: Path, name: str, size: int | None) -> None:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    kinds = {"analyzer": "char_wb", "ngram_range": (3, 5)} if "chars" in name else {"ngram_range": (1, 2)}
    plain = TfidfVectorizer(**kinds, sublinear_tf=True, min_df=2, dtype=np.float32)
    matrix = plain.fit_transform(SHARED)
    prior = loaded(tmp_path, name, size)
    dim = size or min(matrix.shape) - 1
    assert (prior.info.dim, prior.info.input_size, prior.info.modality) == (dim, dim, "text")
    texts = ["the word w3 and", "other v1 text 7 in the w2", "nothing"]
    svd = TruncatedSVD(dim, n_iter=3, random_state=0).fit(matrix)
    np.testing.assert_allclose(vectors(prior, texts), svd.transform(plain.transform(texts)), atol=2e-3)


def test_a_state_is_determined_by_the_shared_texts(tmp_path: Path) -> None:
    assert is_fitted("tfidf:")
    assert not is_fitted("wordllama:")
    one, again = (state_hash(fit_prior("tfidf:words", 8, TEXT, SHARED)) for _ in range(2))
    assert one == again
    assert one != state_hash(fit_prior("tfidf:words", 8, TEXT, SHARED[:-1]))
    assert loaded(tmp_path, "tfidf:words", 8).info.weights == one


@settings(deadline=None, max_examples=30)
@given(texts=st.lists(st.text(max_size=60) | st.sampled_from(SHARED), min_size=1, max_size=8), data=st.data())
def test_order_changes_nothing(tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject) -> None:
    if not _PRIORS:
        _PRIORS.append(loaded(tmp_path_factory.mktemp("tfidf"), "tfidf:chars", 12))
    prior = _PRIORS[0]
    order = data.draw(st.permutations(range(len(texts))))
    each = np.concatenate([vectors(prior, [text]) for text in texts])
    np.testing.assert_allclose(vectors(prior, [texts[i] for i in order]), each[list(order)], atol=1e-6)
    assert np.isfinite(each).all()


_PRIORS: list[Prior] = []


def test_an_unknown_text_is_zero_and_a_long_one_finite(tmp_path: Path) -> None:
    prior = pickle.loads(pickle.dumps(loaded(tmp_path, "tfidf:words", 8)))
    features = vectors(prior, ["", "\x00 東京 Москва", "the word " * 100_000])
    assert not features[:2].any()
    assert features[2].any()


def test_wrong_uses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fitted to a shared set"):
        load_prior("tfidf:words", None, TEXT)
    with pytest.raises(UsageError, match="unknown tfidf 'word'"):
        load_prior("tfidf:word", None, TEXT)
    for texts in ([], ["a b", "c d"], ["one two three"]):
        with pytest.raises(InputError, match=f"cannot be fitted to {len(texts)} shared texts"):
            fit_prior("tfidf:words", None, TEXT, texts)


@pytest.mark.parametrize(
    ("model", "texts", "cause", "remedy"),
    [
        ("words", ["\U0001f600", "\U0001f600 \U0001f600"] * 8, "no word of two letters or more", "take tfidf:chars"),
        ("words", ["a", "b"] * 8, "no word of two letters or more", "take tfidf:chars"),
        ("words", [f"w{i}" for i in range(16)], "no word of two letters or more is in two of them", "take tfidf:chars"),
        ("chars", [str(i) for i in range(16)], "no run of three characters or more", "wordllama:256"),
    ],
)
def test_texts_without_common_words_are_refused_in_words_of_ours(
    model: str, texts: list[str], cause: str, remedy: str
) -> None:
    """And not in scikit-learn's, which speak of stop words and min_df."""
    with pytest.raises(InputError, match=cause) as refused:
        fit_prior(f"tfidf:{model}", None, TEXT, texts)
    assert remedy in refused.value.remedy


def test_equal_texts_fit_without_warnings() -> None:
    """Their variance is 0; what is the same for all rows is refused later, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(fit_prior("tfidf:words", None, TEXT, ["the same text"] * 8)["directions"]).all()


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    prior = loaded(tmp_path, "tfidf:words", 8)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    other = file.with_name(state_name("0" * 32))
    other.write_bytes(content)
    with pytest.raises(InputError, match="belongs to"):
        load_prior("tfidf:words", None, TEXT, Location.parse(other))
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_prior("tfidf:words", None, TEXT, Location.parse(file))
    with pytest.raises(InputError):
        load_prior("tfidf:words", None, TEXT, Location.parse(tmp_path / state_name("1" * 32)))
    assert prior.info.dim == 8
