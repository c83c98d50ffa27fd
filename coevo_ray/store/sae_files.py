"""A fitted sparse autoencoder on disk: safetensors and JSON, and SAELens' format in both directions.

Nothing here needs Ray or the training code.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from coevo_ray.core.factors.sae import SAEConfig, TopKSAE
from coevo_ray.errors import InputError, UsageError
from coevo_ray.store.artifact import Artifact, begin, finish
from coevo_ray.store.checked import read_checked
from coevo_ray.store.data_files import write_blob
from coevo_ray.store.digests import digest
from coevo_ray.store.json_text import parse_json
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.manifest import FileEntry, Manifest, load_manifest
from coevo_ray.store.opening import locate
from coevo_ray.store.writing import writing

WEIGHTS, CONFIG = "sae.safetensors", "sae.json"
SAELENS_WEIGHTS, SAELENS_CONFIG = "sae_weights.safetensors", "cfg.json"
_FLOAT_BYTES = 4
_SAELENS_FORMAT = "6.0.0"  # the first release that reads and writes these keys
Tensors = dict[str, torch.Tensor]


def sae_export(model: ArtifactLike, out: Place, format: str = "saelens") -> str:
    """Writes a model in another library's format.

    Args:
        model: the model, its folder, or what `sae` made.
        out: folder to write to.
        format: "saelens".

    Returns:
        The folder.

    Raises:
        InputError: there is no model.
        UsageError: the format is unknown, or another model is at `out`.
        StoppedError: the store refused.
    """
    _check_format(format)
    return str(export_saelens(load_sae(model), out))


def sae_import(source: Place, out: Place, format: str = "saelens") -> Artifact:
    """Makes a model of ours from another library's, with the same codes.

    Args:
        source: folder with the foreign model.
        out: folder of the model.
        format: "saelens".

    Returns:
        The model.

    Raises:
        InputError: it is missing, damaged, or of another architecture than TopK.
        UsageError: the format is unknown, or something else was made at `out`.
        StoppedError: the store refused.
    """
    _check_format(format)
    return Artifact.open(import_saelens(source, out), "sae")


def _check_format(format: str) -> None:
    if format != "saelens":
        raise UsageError(f"unknown format {format!r}", "it can be: saelens")


def save_sae(location: Location, sae: TopKSAE) -> list[FileEntry]:
    """Writes a model's files; the artifact exists once `store.artifact.finish` has listed them.

    Args:
        location: folder of an artifact of kind "sae".
        sae: the model, on any device.

    Returns:
        The entries of `sae.safetensors` and `sae.json`.

    Raises:
        StoppedError: the store refused.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in sae.state_dict().items()}
    return [
        write_blob(location, WEIGHTS, save_safetensors(state)),
        write_blob(location, CONFIG, json.dumps(sae.config.to_dict(), indent=2).encode()),
    ]


def load_sae_config(location: Location) -> SAEConfig:
    """The shape of a model, without reading its weights.

    Raises:
        InputError: there is no finished SAE here, or its settings are not those of one.
    """
    return _sae_config(location, load_manifest(location, "sae"))


def _sae_config(location: Location, manifest: Manifest) -> SAEConfig:
    file, weights = location.child(CONFIG), location.child(WEIGHTS)
    config = parse_json(read_checked(location, manifest, CONFIG), file)
    known = {field.name for field in dataclasses.fields(SAEConfig)}
    if not isinstance(config, dict) or not {"dim", "latents", "k"} <= set(config) <= known:
        raise InputError(f"{file} describes no SAE", f"its keys can be {sorted(known)}")
    sizes = {name: value for name, value in config.items() if name != "aux_coefficient"}
    if wrong := {n: v for n, v in sizes.items() if isinstance(v, bool) or not isinstance(v, int)}:
        raise InputError(f"{file} has {ascii(wrong)[:200]}", "sizes are whole numbers")
    aux = config.get("aux_coefficient", 0.0)
    if isinstance(aux, bool) or not isinstance(aux, int | float) or not abs(aux) <= sys.float_info.max:
        raise InputError(f"{file} has an aux_coefficient of {ascii(aux)[:80]}", "it is a number")
    made, have = SAEConfig(**config), weights.size()
    need = 2 * made.dim * made.latents * _FLOAT_BYTES  # of the two matrices alone
    if have < need:
        raise InputError(
            f"{file} describes an SAE of {made.latents} latents in {made.dim} dimensions, need {need} bytes of "
            f"weights, have {have}",
            "the files are of two models",
        )
    return made


def load_sae(model: ArtifactLike) -> TopKSAE:
    """Reads a fitted or imported model back, on the CPU and ready to encode.

    Args:
        model: the model, its folder, or what `sae` made.

    Raises:
        InputError: there is no finished SAE here, or its files do not fit together.
    """
    location = locate(model, "sae")
    manifest = load_manifest(location, "sae")
    config, file = _sae_config(location, manifest), location.child(WEIGHTS)
    state = _tensors(file, read_checked(location, manifest, WEIGHTS))
    with torch.device("meta"):  # shapes without memory
        shapes = {name: tuple(tensor.shape) for name, tensor in TopKSAE(config).state_dict().items()}
    _check_shapes(file, state, shapes)
    sae = TopKSAE(config)
    sae.load_state_dict(state)
    return sae.eval()


def export_saelens(sae: TopKSAE, folder: Place) -> Location:
    """Writes a model as SAELens reads it: `cfg.json` and `sae_weights.safetensors`, architecture "topk".

    SAELens does not centre or scale its inputs, so mean and scale go into the weights: with x' = (x - mean) / scale,
    W_enc (x' - b_pre) + b_enc = (W_enc / scale) (x - b_dec) + b_enc and scale x'hat + mean = (scale W_dec)^T z + b_dec,
    where b_dec = mean + scale b_pre. Codes and reconstructions are the same up to float32's rounding.

    Args:
        sae: the model.
        folder: where to write.

    Returns:
        The folder.

    Raises:
        UsageError: another model is there, or nothing can be written.
        StoppedError: the store refused.
    """
    location = Location.parse(folder)
    wide = {name: tensor.detach().cpu().double() for name, tensor in sae.state_dict().items()}
    scale = wide["scale"]
    tensors = {
        "W_enc": wide["encoder"].T / scale,
        "W_dec": wide["decoder"] * scale,
        "b_enc": wide["encoder_bias"],
        "b_dec": wide["mean"] + scale * wide["pre_bias"],
    }
    weights = save_safetensors({name: tensor.float().contiguous() for name, tensor in tensors.items()})
    config = {
        "architecture": "topk",
        "d_in": sae.config.dim,
        "d_sae": sae.config.latents,
        "k": sae.config.k,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {"sae_lens_version": _SAELENS_FORMAT, "sae_lens_training_version": None},
    }
    there = location.child(SAELENS_WEIGHTS)
    if there.is_file() and there.read_bytes() != weights:
        raise UsageError(f"{there} holds another model", "choose another output, or delete that file")
    location.check_writable()
    there.write_bytes(weights)
    location.child(SAELENS_CONFIG).write_json(config)
    return location


def import_saelens(folder: Place, out: Place) -> Location:
    """Makes an SAE of ours from a TopK model that SAELens (6 or later) saved, with the same codes and reconstructions.

    What SAELens learnt as b_dec becomes our mean, and the decoder rows' usual length our scale, so that an exported
    model comes back as it was, up to rounding and with b_pre in the mean.

    Args:
        folder: holds `cfg.json` and `sae_weights.safetensors`.
        out: folder of the new artifact.

    Returns:
        `out`, for `load_sae` and for scoring.

    Raises:
        InputError: files or keys are missing, another architecture, activations that are normalised at run time, or
            weights that do not fit.
        UsageError: something else was made at `out`.
        StoppedError: the store refused.
    """
    source, location = Location.parse(folder), Location.parse(out)
    sae = read_saelens(source)
    names = (SAELENS_CONFIG, SAELENS_WEIGHTS)
    inputs = {"saelens": digest([source.child(name).read_bytes().hex() for name in names])}
    with writing(location):
        if begin(location, "sae", {}, inputs) is None:
            summary = {"latents": sae.config.latents, "k": sae.config.k, "imported_from": "saelens", "seconds": 0.0}
            finish(location, "sae", {}, inputs, save_sae(location, sae), summary)
    return location


def read_saelens(source: Location) -> TopKSAE:
    """The model in a folder that SAELens wrote; see `import_saelens`.

    Raises:
        InputError: it cannot be read, or cannot be said in our terms.
    """
    config = _saelens_config(source.child(SAELENS_CONFIG))
    dim, latents = config["d_in"], config["d_sae"]
    shapes = {"W_enc": (dim, latents), "W_dec": (latents, dim), "b_enc": (latents,), "b_dec": (dim,)}
    file = source.child(SAELENS_WEIGHTS)
    state = _tensors(file, file.read_bytes())
    _check_shapes(file, state, shapes)
    _check_numbers(file, {name: state[name] for name in shapes})
    encoder, decoder, bias, centre = (state[name].double() for name in ("W_enc", "W_dec", "b_enc", "b_dec"))
    lengths = decoder.norm(dim=1).clamp_min(1e-30)
    if config.get("rescale_acts_by_decoder_norm", False):  # encode multiplies by the lengths, decode divides
        encoder, bias, decoder = encoder * lengths, bias * lengths, decoder / lengths[:, None]
        lengths = torch.ones_like(lengths)
    if not config.get("apply_b_dec_to_input", True):
        bias = bias + centre @ encoder
    # Only a common length can be taken from all rows: single ones would change which latents are the largest.
    scale = lengths.median()
    sae = TopKSAE(SAEConfig(dim, latents, config["k"]))
    sae.load_state_dict(
        {
            **sae.state_dict(),
            "encoder": encoder.T * scale,
            "encoder_bias": bias,
            "decoder": decoder / scale,
            "pre_bias": torch.zeros(dim),
            "mean": centre,
            "scale": scale,
        }
    )
    return sae.eval()


def _saelens_config(file: Location) -> dict[str, Any]:
    config = file.read_json()
    if not isinstance(config, dict):
        raise InputError(f"{file} holds no settings", "give a folder that SAELens wrote")
    wanted = {"architecture": "topk", "normalize_activations": "none", "reshape_activations": "none"}
    defaults = {"normalize_activations": "none", "reshape_activations": "none"}
    for name, value in wanted.items():
        have = config.get(name, defaults.get(name))
        if have != value:
            raise InputError(f"{name} is {have!r} in {file}", f"only {value!r} can be imported")
    sizes = {name: config.get(name) for name in ("d_in", "d_sae", "k")}
    wrong = {n: v for n, v in sizes.items() if isinstance(v, bool) or not isinstance(v, int) or v < 1}
    if wrong:
        raise InputError(f"{file} has {str(wrong)[:200]}", "d_in, d_sae and k must be whole numbers of 1 or more")
    switches = ("rescale_acts_by_decoder_norm", "apply_b_dec_to_input")
    if wrong := {n: config[n] for n in switches if not isinstance(config.get(n, False), bool)}:
        raise InputError(f"{file} has {ascii(wrong)[:200]}", "they are true or false")
    return config


def _check_numbers(file: Location, state: Tensors) -> None:
    """Refuses weights that are no floating-point numbers, or not all finite."""
    kinds = {name: str(t.dtype) for name, t in state.items() if not t.is_floating_point() or t.itemsize < 2}
    if kinds:
        raise InputError(f"{file} has weights of {kinds}", "need float16, bfloat16, float32 or float64")
    infinite = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if infinite:
        raise InputError(f"{file} has NaN or infinity in {', '.join(infinite)}", "the model is damaged: copy it again")


def _tensors(file: Location, data: bytes) -> Tensors:
    try:
        tensors: Tensors = load_safetensors(data)
    except SafetensorError as error:
        raise InputError(f"{file} is not a safetensors file: {error}", "copy it again") from error
    return tensors


def _check_shapes(file: Location, state: Tensors, wanted: dict[str, tuple[int, ...]]) -> None:
    have = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = [f"{n}: need {s}, have {have.get(n, 'nothing')}" for n, s in wanted.items() if have.get(n) != s]
    if wrong:
        raise InputError(f"{file} does not fit its settings: {'; '.join(wrong)}", "the files are of two models")
