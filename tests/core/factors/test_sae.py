"""The SAE against a dense model in values and gradients; statistics against a dense computation."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.factors.sae import Codes, SAEConfig, TopKSAE
from coevo_ray.errors import InputError

CONFIG = SAEConfig(dim=6, latents=15, k=3, k_aux=4, dead_after_samples=10)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(config: SAEConfig = CONFIG, seed: int = 0) -> TopKSAE:
    """A model in float64 with biases and input statistics that are not trivial."""
    generator = torch.Generator().manual_seed(seed)
    sae = TopKSAE(config, generator).double()
    with torch.no_grad():
        sae.encoder.add_(0.1 * torch.randn(sae.encoder.shape, generator=generator))
        sae.encoder_bias.add_(0.1 * torch.randn(config.latents, generator=generator))
        sae.pre_bias.add_(0.1 * torch.randn(config.dim, generator=generator))
    sae.set_input_statistics(torch.linspace(-1, 1, config.dim), 2.25)
    return sae


def inputs(rows: int = 20, seed: int = 1) -> torch.Tensor:
    return 1.5 * torch.randn(rows, CONFIG.dim, generator=torch.Generator().manual_seed(seed)).double()


def dense(codes: Codes, latents: int) -> torch.Tensor:
    z = codes.values.new_zeros(len(codes.indices), latents)
    return z.scatter(1, codes.indices, codes.values)


def dense_loss(sae: TopKSAE, x: torch.Tensor) -> torch.Tensor:
    """The formulas of D5.2 with full matrices; which latents are active comes from sorting."""
    scaled = (x - sae.mean) / sae.scale
    z = torch.relu((scaled - sae.pre_bias) @ sae.encoder.T + sae.encoder_bias)
    edge = z.sort(dim=1, descending=True).values[:, sae.config.k - 1 : sae.config.k]
    xhat = torch.where(z >= edge, z, 0) @ sae.decoder + sae.pre_bias
    loss = (scaled - xhat).square().sum() / x.numel()
    dead = torch.nonzero(sae.silent >= sae.config.dead_after_samples).squeeze(1)
    if len(dead):
        residual = (scaled - xhat).detach()
        z_dead = z[:, dead]
        edge = z_dead.sort(dim=1, descending=True).values[:, : sae.config.k_aux][:, -1:]
        guess = torch.where(z_dead >= edge, z_dead, 0) @ sae.decoder[dead]
        loss = loss + sae.config.aux_coefficient * (guess - residual).square().sum() / residual.square().sum()
    return loss


@pytest.mark.parametrize("dead", [0, 2, 9])
def test_loss_and_gradients_equal_the_dense_model(dead: int) -> None:
    ours, oracle, x = make(), make(), inputs()
    for sae in (ours, oracle):
        sae.silent[CONFIG.latents - dead :] = 10
    loss = ours.loss(x)
    torch.autograd.backward(loss.total)
    expected = dense_loss(oracle, x)
    torch.autograd.backward(expected)
    assert loss.total.item() == pytest.approx(expected.item(), abs=1e-12)
    assert (loss.auxiliary.item() > 0) == (dead > 0)
    assert not loss.reconstruction.requires_grad and not loss.codes.values.requires_grad
    for (name, one), other in zip(ours.named_parameters(), oracle.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-12), name


def test_decode_equals_the_dense_product_and_its_gradients() -> None:
    sae, x = make(), inputs()
    codes = sae.encode(x)
    target = inputs(seed=3)
    gradients = []
    for decoded in (
        sae.decode(codes),
        (dense(codes, 15) @ sae.decoder + sae.pre_bias) * sae.scale + sae.mean,
    ):
        loss = ((decoded - target) ** 2).sum()
        gradients.append([decoded, *torch.autograd.grad(loss, [*sae.parameters()], retain_graph=True)])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


@given(st.integers(1, 15), st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_codes_are_the_k_largest_activations(k: int, seed: int) -> None:
    sae, x = make(SAEConfig(dim=6, latents=15, k=k)), inputs(8, seed)
    codes = sae.encode(x)
    z = torch.relu(((x - sae.mean) / sae.scale - sae.pre_bias) @ sae.encoder.T + sae.encoder_bias)
    assert codes.indices.shape == codes.values.shape == (8, k)
    assert codes.indices.dtype == torch.int64
    assert (codes.values >= 0).all()
    for i in range(8):
        assert len(set(codes.indices[i].tolist())) == k
        expected = sorted(z[i].tolist(), reverse=True)[:k]
        assert sorted(codes.values[i].tolist(), reverse=True) == pytest.approx(expected)
        assert torch.allclose(dense(codes, 15)[i][codes.indices[i]], z[i][codes.indices[i]])


def test_the_decoder_begins_with_unit_rows_as_the_encoder_and_by_seed() -> None:
    first, same, other = (TopKSAE(CONFIG, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.allclose(first.decoder.norm(dim=1), torch.ones(15))
    assert torch.equal(first.decoder, first.encoder) and first.decoder is not first.encoder
    assert torch.equal(first.decoder, same.decoder) and not torch.equal(first.decoder, other.decoder)


def test_steps_keep_the_decoder_at_unit_length() -> None:
    sae, x = make(), inputs()
    sae.remove_parallel_gradient_()  # without a gradient there is nothing to do
    optimizer = torch.optim.SGD(sae.parameters(), lr=0.5)
    sae.normalise_decoder_()
    torch.autograd.backward(sae.loss(x).total)
    assert sae.decoder.grad is not None
    before = sae.decoder.grad.clone()
    sae.remove_parallel_gradient_()
    along = (sae.decoder.grad * sae.decoder).sum(dim=1)
    assert torch.allclose(along, torch.zeros_like(along), atol=1e-12)
    removed = before - sae.decoder.grad
    assert removed.abs().max() > 1e-6
    across = removed - (removed * sae.decoder).sum(dim=1, keepdim=True) * sae.decoder
    assert across.abs().max() < 1e-12  # nothing else is taken away
    optimizer.step()
    sae.normalise_decoder_()
    assert torch.allclose(sae.decoder.norm(dim=1), torch.ones(15, dtype=torch.float64))


def test_latents_die_after_silent_samples_and_counts_of_workers_add_up() -> None:
    sae, x = make(), inputs(8)
    whole = sae.active_counts(sae.encode(x))
    parts = [sae.active_counts(sae.encode(part)) for part in (x[:3], x[3:])]
    assert torch.equal(parts[0] + parts[1], whole)
    assert whole.tolist() == (dense(sae.encode(x), 15) > 0).sum(dim=0).tolist()
    counts = torch.zeros(15, dtype=torch.int64)
    counts[2] = 1
    for samples, dead in ((6, 0), (3, 0), (1, 14)):
        sae.note_active_(counts, samples)
        assert int(sae.dead.sum()) == dead
    counts[5] = 3
    sae.note_active_(counts, 1)
    assert torch.nonzero(~sae.dead).flatten().tolist() == [2, 5]


def test_the_auxiliary_loss_moves_a_dead_latent_that_would_stay() -> None:
    x = inputs()
    for dead in (False, True):
        sae = make()
        with torch.no_grad():
            # Just below the third largest: never in the top 3, yet active where it is tried.
            sae.encoder_bias[4] = 0.0
            pre = ((x - sae.mean) / sae.scale - sae.pre_bias) @ sae.encoder.T + sae.encoder_bias
            others = torch.cat([pre[:, :4], pre[:, 5:]], dim=1)
            sae.encoder_bias[4] = (others.topk(3, dim=1).values[:, -1] - pre[:, 4]).min() - 1e-6
        if dead:
            sae.silent[4] = 10
        torch.autograd.backward(sae.loss(x).total)
        assert sae.encoder.grad is not None
        moved = float(sae.encoder.grad[4].abs().sum()) > 0
        active = int(sae.active_counts(sae.encode(x))[4])
        assert active == 0
        assert moved == dead


def planted(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Sums of 3 of 40 fixed directions in 24 dimensions, off centre."""
    directions = torch.nn.functional.normalize(torch.randn(40, 24, generator=torch.Generator().manual_seed(7)), dim=1)
    active = torch.rand(rows, 40, generator=generator).topk(3, dim=1).indices
    weights = 0.5 + torch.rand(rows, 3, generator=generator)
    return 4.0 * (directions[active] * weights[..., None]).sum(dim=1) + 2.0


def test_a_fit_finds_planted_factors() -> None:
    generator = torch.Generator().manual_seed(0)
    x, held_out = planted(4096, generator), planted(1024, generator)
    sae = TopKSAE(SAEConfig(dim=24, latents=80, k=3, k_aux=16, dead_after_samples=8192), generator)
    sae.set_input_statistics(x.mean(dim=0), float((x - x.mean(dim=0)).square().mean()))
    optimizer = torch.optim.Adam(sae.parameters(), lr=5e-3)
    losses = []
    for _ in range(400):
        batch = x[torch.randint(len(x), (256,), generator=generator)]
        loss = sae.loss(batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss.total)
        sae.remove_parallel_gradient_()
        optimizer.step()
        sae.normalise_decoder_()
        sae.note_active_(sae.active_counts(loss.codes), len(batch))
        losses.append(float(loss.reconstruction.detach()))
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])
    with torch.inference_mode():
        codes = sae.encode(held_out)
        residual = (held_out - sae.decode(codes)).square().sum()
        active = sae.active_counts(codes)
    assert residual < 0.2 * (held_out - held_out.mean(dim=0)).square().sum()
    assert active.sum() <= 3 * len(held_out) and float((active == 0).double().mean()) < 0.5


@given(st.lists(st.integers(0, 20), min_size=1, max_size=3), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_parts_of_a_batch_add_up_to_its_loss_and_gradients(cuts: list[int], dead: int) -> None:
    sae, x = make(), inputs()
    sae.silent[CONFIG.latents - dead :] = 10
    whole = sae.loss(x)
    expected = torch.autograd.grad(whole.total, [*sae.parameters()])
    parts = [x[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), len(x)])]

    def residual_squares() -> torch.Tensor:
        """What joining sums: each worker's squared residual."""
        return sum((((p - sae.decode(sae.encode(p))) / sae.scale).square().sum() for p in parts), x.new_zeros(()))

    joined = residual_squares().detach()
    losses = [sae.loss(part, len(x), lambda _: joined) for part in parts]
    for name in ("total", "reconstruction", "auxiliary"):
        total = sum(getattr(loss, name).item() for loss in losses)
        assert total == pytest.approx(getattr(whole, name).item(), abs=1e-12)
    gradients = [torch.autograd.grad(loss.total, [*sae.parameters()]) for loss in losses]
    for found, wanted in zip(zip(*gradients, strict=True), expected, strict=True):
        assert torch.allclose(torch.stack(found).sum(dim=0), wanted, atol=1e-12)


def test_the_reconstruction_error_is_the_unexplained_variance() -> None:
    sae, x = make(), inputs()
    mean_square = float((x - x.mean(dim=0)).square().mean())
    sae.set_input_statistics(x.mean(dim=0), mean_square)
    with torch.no_grad():
        residual = (x - sae.decode(sae.encode(x))).square().sum()
        loss = sae.loss(x)
    unexplained = residual / (x - x.mean(dim=0)).square().sum()
    assert float(loss.reconstruction) == pytest.approx(float(unexplained), rel=1e-9)


def test_dropped_gradients_give_their_memory_to_the_next_ones() -> None:
    sae = make()
    places, gradients = [], []
    for seed in (1, 2, 2):
        sae.drop_gradients_()
        assert all(parameter.grad is None for parameter in sae.parameters())
        torch.autograd.backward(sae.loss(inputs(seed=seed)).total)
        assert sae.encoder.grad is not None and sae.decoder.grad is not None
        places.append({sae.encoder.grad.data_ptr(), sae.decoder.grad.data_ptr()})
        gradients.append([parameter.grad.clone() for parameter in sae.parameters() if parameter.grad is not None])
    assert places[0] == places[1] == places[2]
    assert all(torch.equal(a, b) for a, b in zip(gradients[1], gradients[2], strict=True))
    assert not torch.equal(gradients[0][0], gradients[1][0])


def test_config_and_weights_round_trip() -> None:
    config = SAEConfig(**json.loads(json.dumps(CONFIG.to_dict())))
    assert config == CONFIG
    sae, again = make(), TopKSAE(config).double()
    again.load_state_dict(sae.state_dict())
    assert torch.equal(again.decode(again.encode(inputs())), sae.decode(sae.encode(inputs())))


@pytest.mark.parametrize("change", [{"k": 16}, {"k": 0}, {"dim": 0}, {"k_aux": 0}, {"dead_after_samples": 0}])
def test_impossible_sizes_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(InputError, match="sizes"):
        SAEConfig(**{**CONFIG.to_dict(), **change})


@pytest.mark.parametrize("shape", [(4, 5), (6,)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    for use in (make().encode, make().loss):
        with pytest.raises(InputError, match="dimension 6"):
            use(torch.zeros(shape))


@pytest.mark.parametrize("mean_square", [0.0, float("nan"), -1.0])
def test_constant_inputs_are_refused(mean_square: float) -> None:
    with pytest.raises(InputError, match="mean square"):
        make().set_input_statistics(torch.zeros(6), mean_square)
