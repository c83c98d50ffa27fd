"""A model on disk: as it was, and in SAELens' format as a plain reading of that format understands it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file, save_file

from coevo_ray.core.factors.sae import SAEConfig, TopKSAE
from coevo_ray.errors import InputError, UsageError
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_blob
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import load_manifest
from coevo_ray.store.sae_files import export_saelens, import_saelens, load_sae, load_sae_config, read_saelens, save_sae

DIM, LATENTS, K = 6, 20, 4
Matrix = npt.NDArray[np.float32]


def fitted(seed: int = 0) -> TopKSAE:
    """A model whose every parameter matters: centred, scaled, biased, the encoder no longer the decoder."""
    generator = torch.Generator().manual_seed(seed)
    sae = TopKSAE(SAEConfig(DIM, LATENTS, K, k_aux=3, dead_after_samples=77), generator)
    sae.set_input_statistics(torch.randn(DIM, generator=generator) * 3, 0.07)
    with torch.no_grad():
        for parameter in (sae.encoder, sae.encoder_bias, sae.pre_bias):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    sae.silent.copy_(torch.arange(LATENTS))
    return sae


def inputs() -> Matrix:
    return np.random.default_rng(1).normal(1.0, 2.0, (200, DIM)).astype(np.float32)


def ours(sae: TopKSAE, x: Matrix) -> tuple[Matrix, Matrix]:
    """Codes as a dense matrix, and reconstructions."""
    with torch.inference_mode():
        codes = sae.encode(torch.from_numpy(x))
        dense = torch.zeros(len(x), sae.config.latents).scatter_(1, codes.indices, codes.values)
        return dense.numpy(), sae.decode(codes).numpy()


def saelens(folder: Path, x: Matrix) -> tuple[Matrix, Matrix]:
    """What SAELens' TopKSAE does with such a folder, in NumPy."""
    config, w = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
    pre = (x - w["b_dec"] * config["apply_b_dec_to_input"]) @ w["W_enc"] + w["b_enc"]
    lengths = np.linalg.norm(w["W_dec"], axis=1) if config["rescale_acts_by_decoder_norm"] else np.float32(1)
    pre = pre * lengths
    codes = np.zeros_like(pre)
    for row, values in enumerate(pre):
        for j in np.argsort(-values)[: config["k"]]:
            codes[row, j] = max(values[j], 0)
    return codes, (codes / lengths) @ w["W_dec"] + w["b_dec"]


def saved(folder: Path, sae: TopKSAE) -> Location:
    place = Location.parse(str(folder))
    finish(place, "sae", {}, {}, save_sae(place, sae), {})
    return place


def replace(place: Location, config: dict[str, Any]) -> None:
    """Gives a model other settings, with a manifest that says so."""
    files = [e for e in load_manifest(place).files if e.path != "sae.json"]
    finish(place, "sae", {}, {}, [*files, write_blob(place, "sae.json", json.dumps(config).encode())], {})


def foreign(folder: Path, **changes: Any) -> Path:
    """A folder as SAELens writes it, with decoder rows of different lengths."""
    random = np.random.default_rng(3)
    shapes = {"W_enc": (DIM, LATENTS), "W_dec": (LATENTS, DIM), "b_enc": (LATENTS,), "b_dec": (DIM,)}
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    config = {
        "architecture": "topk",
        "d_in": DIM,
        "d_sae": LATENTS,
        "k": K,
        "dtype": "float32",
        "device": "cuda",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {"sae_lens_version": "6.1.0", "hook_name": "blocks.3.hook_resid_post"},
    }
    for name, value in changes.items():
        if name in weights:
            weights[name] = value
        else:
            config[name] = value
    folder.mkdir()
    save_file({n: w for n, w in weights.items() if w is not None}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({n: v for n, v in config.items() if v is not None}))
    return folder


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    sae = fitted()
    back = load_sae(saved(tmp_path / "sae", sae))
    assert back.config == sae.config and not back.training
    for name, tensor in sae.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


def test_a_model_is_read_without_ray_and_without_the_training_code(tmp_path: Path) -> None:
    place = saved(tmp_path / "sae", fitted())
    code = f"""
import sys
sys.modules["ray"] = None  # importing it fails
from coevo_ray.store.location import Location
from coevo_ray.store.sae_files import load_sae
print(load_sae(Location({str(place)!r})).config.latents, "coevo_ray.training" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout.split() == [str(LATENTS), "False"], result.stderr


def test_saelens_reads_the_same_codes_and_reconstructions(tmp_path: Path) -> None:
    sae, x = fitted(), inputs()
    export_saelens(sae, str(tmp_path / "lens"))
    codes, reconstructions = saelens(tmp_path / "lens", x)
    mine, rebuilt = ours(sae, x)
    assert np.count_nonzero(mine, axis=1).max() == K
    assert np.array_equal(mine > 0, codes > 0)
    assert np.allclose(codes, mine, atol=1e-4)
    assert np.allclose(reconstructions, rebuilt, atol=1e-4)


def test_an_exported_model_comes_back(tmp_path: Path) -> None:
    sae, x = fitted(), inputs()
    place = import_saelens(export_saelens(sae, str(tmp_path / "lens")), str(tmp_path / "sae"))
    back = load_sae(place)
    for mine, other in zip(ours(sae, x), ours(back, x), strict=True):
        assert np.array_equal(mine > 0, other > 0) and np.allclose(mine, other, atol=1e-4)
    assert torch.allclose(back.decoder, sae.decoder, atol=1e-6)
    assert torch.allclose(back.encoder, sae.encoder, atol=1e-5)
    assert torch.allclose(back.scale, sae.scale, atol=1e-6)
    assert torch.allclose(back.decoder.norm(dim=1), torch.ones(LATENTS), atol=1e-5)
    manifest = (tmp_path / "sae" / "manifest.json").read_bytes()
    import_saelens(str(tmp_path / "lens"), str(tmp_path / "sae"))
    assert (tmp_path / "sae" / "manifest.json").read_bytes() == manifest


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("subtract", [False, True])
def test_a_model_of_saelens_gives_its_own_codes_here(tmp_path: Path, rescale: bool, subtract: bool) -> None:
    folder = foreign(tmp_path / "lens", rescale_acts_by_decoder_norm=rescale, apply_b_dec_to_input=subtract)
    x = inputs()
    codes, reconstructions = saelens(folder, x)
    mine, rebuilt = ours(read_saelens(Location(str(folder))), x)
    assert np.array_equal(mine > 0, codes > 0)
    assert np.allclose(mine, codes, rtol=1e-4, atol=1e-4)
    assert np.allclose(rebuilt, reconstructions, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "jumprelu"}, "architecture is 'jumprelu'"),
        ({"architecture": None}, "architecture is None"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z'"),
        ({"k": None}, "{'k': None}"),
        ({"k": 2.5}, "{'k': 2.5}"),
        ({"d_sae": 0}, "{'d_sae': 0}"),
        ({"k": LATENTS + 1}, "k at most latents"),
        ({"d_in": DIM + 1}, "W_enc: need (7, 20), have (6, 20)"),
        ({"W_dec": np.zeros((DIM, LATENTS), np.float32)}, "W_dec: need (20, 6), have (6, 20)"),
        ({"b_enc": None}, "b_enc: need (20,), have nothing"),
        ({"d_in": 10**12, "d_sae": 10**12, "k": 1}, "W_enc: need (1000000000000, 1000000000000)"),
        ({"b_enc": np.full(LATENTS, np.nan, np.float32)}, "NaN or infinity in b_enc"),
        ({"b_dec": np.full(DIM, np.inf, np.float16)}, "NaN or infinity in b_dec"),
        ({"W_enc": np.zeros((DIM, LATENTS), np.int32)}, "weights of {'W_enc': 'torch.int32'}"),
        ({"b_dec": np.zeros(DIM, np.bool_)}, "weights of {'b_dec': 'torch.bool'}"),
        ({"rescale_acts_by_decoder_norm": "no"}, "'no'"),
    ],
)
def test_what_cannot_be_imported_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = foreign(tmp_path / "lens", **changes)
    with pytest.raises(InputError) as error:
        import_saelens(str(folder), str(tmp_path / "sae"))
    assert message in str(error.value)
    assert not (tmp_path / "sae").exists()


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cfg\.json"):
        import_saelens(str(tmp_path / "nothing"), str(tmp_path / "sae"))
    folder = foreign(tmp_path / "lens")
    (folder / "sae_weights.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="not a safetensors file"):
        import_saelens(str(folder), str(tmp_path / "sae"))
    (folder / "cfg.json").write_text("[]")
    with pytest.raises(InputError, match="holds no settings"):
        import_saelens(str(folder), str(tmp_path / "sae"))


def test_another_model_is_not_overwritten(tmp_path: Path) -> None:
    export_saelens(fitted(0), str(tmp_path / "lens"))
    export_saelens(fitted(0), str(tmp_path / "lens"))
    with pytest.raises(UsageError, match="another model"):
        export_saelens(fitted(1), str(tmp_path / "lens"))
    place = import_saelens(str(tmp_path / "lens"), str(tmp_path / "sae"))
    with pytest.raises(UsageError, match="other settings"):
        import_saelens(str(foreign(tmp_path / "other")), place)


def test_models_whose_files_do_not_fit_are_refused(tmp_path: Path) -> None:
    place = saved(tmp_path / "sae", fitted())
    file = tmp_path / "sae" / "sae.json"
    content = json.loads(file.read_text())
    replace(place, {**content, "latents": LATENTS + 1})
    with pytest.raises(InputError, match=r"decoder: need \(21, 6\), have \(20, 6\)"):
        load_sae(place)
    replace(place, {"dim": DIM, "colour": "red"})
    with pytest.raises(InputError, match="describes no SAE"):
        load_sae(place)
    with pytest.raises(InputError, match="no finished sae"):
        load_sae(Location(str(tmp_path / "nothing")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": 10**12}, "describes an SAE of 1000000000000 latents in 6 dimensions, need 48000000000000 bytes"),
        ({"dim": 10**30, "latents": 10**30}, "need 8"),
        ({"latents": 10.5}, "sizes are whole numbers"),
        ({"dim": "6"}, "sizes are whole numbers"),
        ({"k": True}, "sizes are whole numbers"),
        ({"k": 0}, "all sizes must be 1 or more"),
        ({"aux_coefficient": float("nan")}, "aux_coefficient"),
        ({"aux_coefficient": 10**400}, "aux_coefficient"),
    ],
)
def test_no_memory_is_taken_for_sizes_that_the_weights_have_not(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    place = saved(tmp_path / "sae", fitted())
    replace(place, {**place.child("sae.json").read_json(), **changes})
    for load in (load_sae_config, load_sae):
        with pytest.raises(InputError, match=message):
            load(place)


def test_weights_that_are_not_the_manifests_are_refused(tmp_path: Path) -> None:
    place = saved(tmp_path / "sae", fitted())
    for name in ("sae.safetensors", "sae.json"):
        file = tmp_path / "sae" / name
        data = file.read_bytes()
        for changed in (data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
            file.write_bytes(changed)
            with pytest.raises(InputError, match=rf"{name} (is damaged or replaced|has the checksum)"):
                load_sae(place)
        file.write_bytes(data)
    load_sae(place)
