"""Priors of texts: their features are those of their libraries, whatever the order and the batches."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coevo_ray.core.arrays import Float32Array
from coevo_ray.errors import CoevoError, InputError, UsageError
from coevo_ray.priors.base import Prior
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.inputs import CUT, NO_TOKENS, PAD, TEXTS, TOKENS, PreparedTexts, Samples, TokenInput
from coevo_ray.priors.registry import check_prior, load_prior
from coevo_ray.priors.text_tokens import WINDOWS, TextTokens
from tests.priors.conftest import put_in_hub
from tests.priors.tiny_texts import CONTEXT, SENTENCES, save_bert, save_sentence_transformer, save_static, word_pieces

TEXT = Samples("text")
LONG = "long words " * 30  # 60 word pieces or more: several windows
POOLINGS = ("mean", "cls", "last", "max")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return save_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return save_static(tmp_path_factory.mktemp("models") / "static")


def prepared(prior: Prior, texts: list[str]) -> PreparedTexts:
    assert isinstance(prior.input, TokenInput)
    return prior.input.prepare(pa.chunked_array([pa.array(texts, pa.string())]))


def encoded(prior: Prior, texts: list[str], batch_rows: int = 3) -> Float32Array:
    return Encoder(prior, "cpu", batch_rows=batch_rows).encode(prepared(prior, texts).data)


def hidden_states(bert: Path, texts: list[str], **options: Any) -> tuple[Any, Any]:
    """Last hidden states and mask by the plain use of the library."""
    from transformers import AutoModel, AutoTokenizer

    options = {"truncation": True, **options}
    tokens = AutoTokenizer.from_pretrained(bert)(texts, padding=True, return_tensors="pt", **options)
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(bert).eval()(tokens["input_ids"], tokens["attention_mask"])
    return hidden.last_hidden_state, tokens["attention_mask"]


def test_wordllama_is_the_librarys_without_a_download(offline: Path) -> None:
    import wordllama
    from safetensors.numpy import load_file

    check_prior("wordllama:", samples=TEXT)
    prior = load_prior("wordllama:", samples=TEXT)
    assert (prior.info.name, prior.info.dim, prior.info.modality) == ("wordllama:256", 256, "text")
    assert "MIT" in prior.info.licence
    folder = Path(wordllama.__file__).parent
    table = load_file(folder / "weights" / "l2_supercat_256.safetensors")["embedding.weight"]
    vocabulary = folder / "tokenizers" / "l2_supercat_tokenizer_config.json"
    plain = wordllama.WordLlamaInference(table, wordllama.WordLlama.load_tokenizer(vocabulary))
    texts = [*SENTENCES, LONG]
    np.testing.assert_allclose(encoded(prior, texts), plain.embed(texts), atol=1e-5)
    small = encoded(load_prior("wordllama:64", samples=TEXT), texts)
    np.testing.assert_allclose(small, plain.embed(texts)[:, :64], atol=1e-5)
    assert not offline.exists()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_model2vec_is_the_librarys(tmp_path: Path, normalize: bool, weights: bool) -> None:
    from model2vec import StaticModel

    path = save_static(tmp_path / "model", normalize=normalize, weights=weights)
    check_prior(f"model2vec:{path}", samples=TEXT)
    prior = load_prior(f"model2vec:{path}", samples=TEXT)
    assert prior.info.input_size == CONTEXT
    texts = [*SENTENCES, LONG]
    np.testing.assert_allclose(encoded(prior, texts), StaticModel.from_pretrained(path).encode(texts), atol=1e-5)


@pytest.mark.parametrize("prompt", ["", "query: "])
def test_sentence_transformers_is_the_librarys(bert: Path, tmp_path: Path, prompt: str) -> None:
    from sentence_transformers import SentenceTransformer

    path = save_sentence_transformer(bert, tmp_path / "model", prompt)
    check_prior(f"sentence_transformers:{path}", samples=TEXT)
    prior = load_prior(f"sentence_transformers:{path}", samples=TEXT)
    assert ("query" in prior.info.preprocessing) == bool(prompt)
    texts = [*SENTENCES, LONG]
    expected = SentenceTransformer(str(path), device="cpu").encode(texts, show_progress_bar=False)
    np.testing.assert_allclose(encoded(prior, texts), expected, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_hf_is_the_librarys_and_a_plain_pooling(bert: Path, pooling: str) -> None:
    texts = [*SENTENCES, LONG]
    hidden, mask = hidden_states(bert, texts)
    rows = [states[: int(there.sum())] for states, there in zip(hidden, mask, strict=True)]
    plain = {
        "mean": [row.mean(dim=0) for row in rows],
        "cls": [row[0] for row in rows],
        "last": [row[-1] for row in rows],
        "max": [row.max(dim=0).values for row in rows],
    }
    prior = load_prior(f"hf:{bert}#{pooling}", samples=TEXT)
    np.testing.assert_allclose(encoded(prior, texts), torch.stack(plain[pooling]), atol=1e-5)


def test_without_a_pooling_the_mean_is_taken(bert: Path) -> None:
    mean, none = (load_prior(f"hf:{bert}{tail}", samples=TEXT) for tail in ("#mean", ""))
    np.testing.assert_array_equal(encoded(mean, SENTENCES), encoded(none, SENTENCES))


def test_windows_are_averaged_by_their_tokens(bert: Path) -> None:
    prior = load_prior(f"hf:{bert}#mean+windows", samples=TEXT)
    assert f"{WINDOWS} windows of {CONTEXT}" in prior.info.preprocessing
    got = encoded(prior, ["short", LONG])
    hidden, mask = hidden_states(bert, [LONG], return_overflowing_tokens=True, max_length=CONTEXT)
    assert len(hidden) > 3
    # Each token counts once, whatever its window.
    np.testing.assert_allclose(got[1], hidden[mask.bool()].mean(dim=0), atol=1e-5)
    np.testing.assert_allclose(got[:1], encoded(load_prior(f"hf:{bert}", samples=TEXT), ["short"]), atol=1e-6)


def test_windows_of_static_vectors_are_the_whole_text(static: Path) -> None:
    whole = encoded(load_prior(f"model2vec:{static}", 1000, TEXT), [LONG, "one"])
    windows = encoded(load_prior(f"model2vec:{static}#windows", samples=TEXT), [LONG, "one"])
    angles = (whole * windows).sum(axis=1) / np.linalg.norm(whole, axis=1) / np.linalg.norm(windows, axis=1)
    assert angles[1] == pytest.approx(1)
    assert angles[0] > 0.9  # each window is normalised by this model before the mean
    whole, windows = (
        encoded(load_prior(f"wordllama:64{tail}", size, TEXT), [LONG]) for tail, size in (("", 1000), ("#windows", 8))
    )
    np.testing.assert_allclose(windows, whole, atol=1e-5)


def test_long_texts_are_cut_and_counted(bert: Path) -> None:
    prior = load_prior(f"hf:{bert}", samples=TEXT)
    assert f"cut to {CONTEXT}" in prior.info.preprocessing
    texts = ["short", LONG, "y " * 3_000_000]
    made = prepared(prior, texts)
    assert made.counts == {TOKENS: len("short") + 2 + 2 * CONTEXT, TEXTS: 3, CUT: 2}
    assert made.data.shape == (3, 1, CONTEXT)
    windows = prepared(load_prior(f"hf:{bert}#windows", samples=TEXT), texts)
    assert windows.counts[CUT] == 1
    assert windows.data.shape == (3, WINDOWS, CONTEXT)


def test_texts_without_tokens_are_rejected_and_zero(static: Path) -> None:
    prior = load_prior(f"model2vec:{static}", samples=TEXT)
    texts = ["", "\x00\x01", "東京", "one"]  # the vocabulary has none of the first three
    made = prepared(prior, texts)
    assert made.reasons == [NO_TOKENS] * 3 + [""]
    features = encoded(prior, texts)
    assert not features[:3].any()
    assert np.isfinite(features).all()
    assert features[3].any()


def test_no_texts_and_texts_without_any_tokens_have_shapes(static: Path, bert: Path) -> None:
    for name in (f"model2vec:{static}", f"model2vec:{static}#windows", f"hf:{bert}"):
        prior = load_prior(name, samples=TEXT)
        assert encoded(prior, []).shape == (0, prior.info.dim)
        assert encoded(prior, ["", ""]).shape == (2, prior.info.dim)


def test_an_empty_text_has_a_finite_vector_where_special_tokens_are(bert: Path) -> None:
    for pooling in POOLINGS:
        assert np.isfinite(encoded(load_prior(f"hf:{bert}#{pooling}+windows", samples=TEXT), ["", "\x07"])).all()


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_order_and_batches_change_nothing(bert: Path, data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.text(max_size=80) | st.sampled_from([*SENTENCES, LONG]), min_size=1, max_size=9))
    order = data.draw(st.permutations(range(len(texts))))
    tail = data.draw(st.sampled_from(["#mean", "#last+windows"]))
    prior = _cached(f"hf:{bert}{tail}")
    plain = encoded(prior, texts, batch_rows=1)
    shuffled = encoded(prior, [texts[i] for i in order], data.draw(st.integers(1, 10)))
    np.testing.assert_allclose(shuffled, plain[list(order)], atol=2e-6)


_PRIORS: dict[str, Prior] = {}


def _cached(name: str) -> Prior:
    if name not in _PRIORS:
        _PRIORS[name] = load_prior(name, samples=TEXT)
    return _PRIORS[name]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=300), max_size=8), st.integers(3, 20), st.integers(1, 4))
def test_tokens_are_the_texts_own(texts: list[str], context: int, windows: int) -> None:
    """Against one text at a time, without truncation: the first tokens, in windows, and what is left out is told."""
    vocabulary = word_pieces()._tokenizer.to_str()
    tokens = TextTokens(vocabulary, context, windows, special=False)(texts)
    plain = word_pieces()._tokenizer
    for row, text in enumerate(texts):
        ids = plain.encode(text, add_special_tokens=False).ids
        have = tokens.ids[row][tokens.ids[row] != PAD].tolist()
        assert have == ids[: context * windows]
        assert tokens.cut[row] == (len(ids) > context * windows)
    assert tokens.ids.shape[0] == len(texts)
    assert tokens.ids.shape[1] <= windows
    assert tokens.ids.shape[2] <= context


def test_an_input_travels_without_its_model(bert: Path) -> None:
    prior = load_prior(f"hf:{bert}#cls", samples=TEXT)
    again = pickle.loads(pickle.dumps(prior.input))
    np.testing.assert_array_equal(again.prepare(pa.chunked_array([SENTENCES])).data, prepared(prior, SENTENCES).data)


def test_weights_are_named_by_vectors_and_vocabulary(bert: Path, tmp_path: Path) -> None:
    name = load_prior(f"hf:{bert}", samples=TEXT).info.weights
    assert name == load_prior(f"hf:{bert}#cls", samples=TEXT).info.weights
    shutil.copytree(bert, tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    file.write_text(file.read_text().replace('"database"', '"databases"'))
    assert load_prior(f"hf:{tmp_path / 'other'}", samples=TEXT).info.weights != name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("wordllama:100", "unknown wordllama model '100'"),
        ("wordllama:64#window", "unknown 'window' behind #"),
        ("hf:org/model#median", "unknown 'median'"),
        ("hf:org/model#mean+cls", "2 poolings"),
        ("hf:#mean", "names no model"),
        ("model2vec:#windows", "names no model"),
        ("sentence_transformers:#windows", "names no model"),
        ("model2vec", "names no model"),
        ("hf:./model", "is relative"),
        ("model2vec:~/model", "is relative"),
        ("sentence_transformers:/not/there", "no folder /not/there"),
    ],
)
def test_names_that_are_wrong_are_refused(spec: str, message: str) -> None:
    for look in (check_prior, load_prior):
        with pytest.raises(CoevoError) as caught:
            look(spec, None, TEXT)
        assert message in caught.value.cause
        assert caught.value.remedy


@pytest.mark.parametrize("spec", ["wordllama:", "model2vec:a/b", "sentence_transformers:a", "hf:a/b", "tfidf:"])
def test_images_are_refused_by_name(spec: str) -> None:
    with pytest.raises(UsageError, match="encodes texts, and the pool holds images") as caught:
        check_prior(spec)
    assert "efficientnet_lite" in caught.value.remedy


@pytest.mark.parametrize(
    ("spec", "package", "extra"),
    [
        ("model2vec:a/b", "model2vec", "text"),
        ("sentence_transformers:a/b", "sentence_transformers", "sentence-transformers"),
        ("hf:a/b", "transformers", "transformers"),
        ("tfidf:", "sklearn", "text"),
    ],
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, spec: str, package: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"needs the package {package}") as caught:
        check_prior(spec, None, TEXT)
    assert f"coevo-ray[{extra}]" in caught.value.remedy


@pytest.mark.parametrize("spec", ["model2vec:a/b", "sentence_transformers:b", "hf:a/b@main#cls"])
def test_models_that_cannot_be_downloaded_name_the_remedy(offline: Path, spec: str) -> None:
    with pytest.raises(InputError, match="cannot be downloaded") as caught:
        load_prior(spec, None, TEXT)
    assert "HF_HOME" in caught.value.remedy
    assert "absolute path" in caught.value.remedy
    put_in_hub(offline, "sentence-transformers/b", "modules.json").write_text("[]")
    if "sentence" in spec:
        check_prior(spec, None, TEXT)


def test_folders_without_a_model_are_refused(bert: Path, tmp_path: Path) -> None:
    for scheme in ("model2vec", "sentence_transformers", "hf"):
        with pytest.raises(InputError, match="holds no model"):
            load_prior(f"{scheme}:{tmp_path}", None, TEXT)
    shutil.copytree(bert, tmp_path / "bert")
    with pytest.raises(InputError, match="holds no model"):
        load_prior(f"sentence_transformers:{bert}", None, TEXT)
    (tmp_path / "bert" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot load hf:"):
        load_prior(f"hf:{tmp_path / 'bert'}", None, TEXT)


def test_a_missing_tokenizer_is_an_error(bert: Path, static: Path, tmp_path: Path) -> None:
    for name, model in (("hf", bert), ("model2vec", static)):
        copy = Path(shutil.copytree(model, tmp_path / name))
        for file in copy.glob("*token*"):
            file.unlink()
        with pytest.raises(InputError, match=r"tokenizer|vocabulary|cannot load"):
            load_prior(f"{name}:{copy}", None, TEXT)


def test_weights_that_are_missing_are_not_made_up(bert: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bert, tmp_path / "bert"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(InputError, match="do not fit its configuration"):
        load_prior(f"hf:{copy}", None, TEXT)


def test_more_tokens_than_the_model_has_positions_are_refused(bert: Path) -> None:
    with pytest.raises(UsageError, match="cannot take 99 tokens"):
        load_prior(f"hf:{bert}", 99, TEXT)


def test_a_tokenizer_without_a_limit_takes_that_of_the_model(tmp_path: Path) -> None:
    path = save_bert(tmp_path / "bert", limit=None)
    assert load_prior(f"hf:{path}", None, TEXT).info.input_size == CONTEXT


def test_a_sentence_model_that_is_static_is_refused(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer, models

    static = models.StaticEmbedding(word_pieces()._tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path / "model"))
    with pytest.raises(UsageError, match="begins with StaticEmbedding"):
        load_prior(f"sentence_transformers:{tmp_path / 'model'}", None, TEXT)


def test_prepared_rows_are_checked(bert: Path) -> None:
    encoder = Encoder(load_prior(f"hf:{bert}", None, TEXT), "cpu")
    for wrong in (np.zeros((2, CONTEXT), np.int32), np.zeros((2, 2, 4), np.int32), np.zeros((2, 1, 99), np.int32)):
        with pytest.raises(InputError, match="needs int32"):
            encoder.encode(wrong)
