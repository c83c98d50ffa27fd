from __future__ import annotations

import resource
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.priors.base import LoadedPrior, make_prior
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.registry import load_prior

on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class Means(nn.Module):
    """Features that can be computed by hand: the mean of each channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


class Raises(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no\nkernel")


class Little(Means):
    """A module on a device that holds `most` rows; without room for one it still answers `feature_dim`."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.tried: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.tried.append(len(images))
        if len(images) > self.most:
            raise torch.cuda.OutOfMemoryError(f"{len(images)} rows")
        return super().forward(images)


class LittleMemory:
    """`callable:tests.priors.test_encoder:LittleMemory`."""

    def __init__(self, input_size: int = 3) -> None:
        self.module, self.dim, self.input_size = Little(input_size), 3, input_size


class Small(nn.Module):
    """A convolutional network whose features depend on every weight and pixel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.InstanceNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, stride=2)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.layers(images).mean(dim=(2, 3))
        return features


def prior(module: nn.Module | None = None, dim: int = 3, size: int = 4) -> LoadedPrior:
    return make_prior("test:means", module or Means(), size, dim, (10.0, 20.0, 30.0), (2.0, 4.0, 5.0), "none")


def images(rows: int, size: int = 4) -> npt.NDArray[np.uint8]:
    return np.random.Generator(np.random.PCG64(0)).integers(0, 256, (rows, size, size, 3), dtype=np.uint8)


def by_hand(batch: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Normalised means, pixel by pixel."""
    mean, std = (10, 20, 30), (2, 4, 5)
    rows = [
        [np.mean([(int(v) - mean[c]) / std[c] for v in image[..., c].reshape(-1)]) for c in range(3)] for image in batch
    ]
    return np.array(rows)


@pytest.mark.parametrize("batch_rows", [1, 2, 4, 64])
def test_images_are_normalised_in_pixel_units_whatever_the_batch(batch_rows: int) -> None:
    batch = images(5)
    features = Encoder(prior(), "cpu", batch_rows=batch_rows).encode(batch)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, by_hand(batch), rtol=1e-5)


def test_the_module_sees_the_same_as_without_the_encoder() -> None:
    module, batch = Small().eval(), images(7, 12)
    mean, std = torch.tensor((10.0, 20.0, 30.0)).view(1, 3, 1, 1), torch.tensor((2.0, 4.0, 5.0)).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = module(((torch.tensor(batch).permute(0, 3, 1, 2).float() - mean) / std).contiguous())
    features = Encoder(prior(Small(), 8, 12), "cpu", batch_rows=3).encode(batch)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_no_rows_and_calls_after_one_another() -> None:
    encoder, batch = Encoder(prior(), torch.device("cpu"), batch_rows=4), images(6)
    assert encoder.encode(batch[:0]).shape == (0, 3)
    first = encoder.encode(batch)
    copy = first.copy()
    encoder.encode(batch[::-1])
    assert np.array_equal(first, copy)
    assert encoder.busy_seconds > 0


def test_read_only_images_are_taken_without_a_warning() -> None:
    batch = images(2)
    expected = Encoder(prior(), "cpu").encode(batch)
    batch.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(Encoder(prior(), "cpu").encode(batch), expected)


def test_wrong_images_and_features_name_the_prior() -> None:
    with pytest.raises(InputError, match=r"test:means was given uint8\[2, 5, 5, 3\], needs uint8\[b, 4, 4, 3\]"):
        Encoder(prior(), "cpu").encode(images(2, size=5))
    with pytest.raises(InputError, match="was given float64"):
        Encoder(prior(), "cpu").encode(images(2).astype(np.float64))
    with pytest.raises(InputError, match=r"test:means gave \[2, 3\], need \[2, 7\]"):
        Encoder(prior(dim=7), "cpu").encode(images(2))
    with pytest.raises(InputError, match="test:means failed on a batch of 2 rows: no kernel"):
        Encoder(prior(Raises()), "cpu").encode(images(2))


def test_precision_is_chosen_and_can_be_read() -> None:
    assert Encoder(prior(), "cpu").precision == "float32"
    module = nn.Sequential(Means(), nn.Linear(3, 5))
    batch = images(4)
    full = Encoder(prior(module, 5), "cpu").encode(batch)
    half = Encoder(prior(module, 5), "cpu", precision="bfloat16")
    assert half.precision == "bfloat16"
    features = half.encode(batch)
    assert features.dtype == np.float32
    assert not np.array_equal(features, full)
    np.testing.assert_allclose(features, full, atol=0.03 * np.abs(full).max())
    with pytest.raises(UsageError, match="float16 on a CPU"):
        Encoder(prior(), "cpu", precision="float16")


def test_memory_of_one_pass_serves_the_next() -> None:
    class Wide(Means):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) + sum(torch.ones(12 << 20).mean() for _ in range(8))

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        encoder.encode(images(2))
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    encoder = Encoder(prior(Wide()), "cpu")
    # Eight tensors of 48 MiB are 98 304 pages; the first passes find no memory yet.
    assert min(faults() for _ in range(6)) < 20_000


def test_a_batch_that_does_not_fit_is_halved_and_remembered() -> None:
    loaded = load_prior("callable:tests.priors.test_encoder:LittleMemory", 3)
    module = loaded.module
    assert isinstance(module, Little)
    module.tried.clear()
    encoder = Encoder(loaded, "cpu", batch_rows=16)
    batch = images(7, size=3)
    features = encoder.encode(batch)
    assert module.tried == [7, 7, 4, 2, 2, 2, 1]
    assert encoder.batch_rows == 2
    np.testing.assert_allclose(features, batch.mean(axis=(1, 2)) / 255, rtol=1e-5)
    encoder.encode(batch)
    assert module.tried[7:] == [2, 2, 2, 1]


def test_rows_before_one_that_does_not_fit_are_kept() -> None:
    module = Little(4)
    encoder = Encoder(prior(module), "cpu", batch_rows=4)
    encoder.encode(images(4))
    module.most, module.tried = 2, []
    features = encoder.encode(images(6))
    assert module.tried == [4, 2, 2, 2]
    np.testing.assert_allclose(features, by_hand(images(6)), rtol=1e-5)


def test_no_memory_for_one_row_names_the_remedy() -> None:
    module = Little(1)
    encoder = Encoder(prior(module), "cpu", batch_rows=5)
    module.most = 0
    with pytest.raises(StoppedError, match="cpu has no memory for one row of test:means") as caught:
        encoder.encode(images(5))
    assert "smaller input_size" in caught.value.remedy
    assert module.tried == [5, 2, 1]


class TestOnGpu:
    pytestmark = on_gpu

    @pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
    def test_features_are_those_of_the_cpu(self, precision: Any) -> None:
        batch = images(50, 32)
        expected = Encoder(prior(Small(), 8, 32), "cpu").encode(batch)
        encoder = Encoder(prior(Small(), 8, 32), "cuda", batch_rows=8, precision=precision)
        assert encoder.precision == precision
        tolerance = 1e-4 if precision == "float32" else 0.02
        for rows in (50, 8, 3, 17):  # shorter last batches, and slots that are used again
            features = encoder.encode(batch[:rows])
            np.testing.assert_allclose(features, expected[:rows], atol=tolerance * np.abs(expected).max())
        assert encoder.encode(batch[:0]).shape == (0, 8)

    def test_auto_is_half_precision(self) -> None:
        assert Encoder(prior(), "cuda").precision in ("bfloat16", "float16")

    def test_features_do_not_depend_on_how_work_overlaps(self) -> None:
        """A slow module, many small batches: a slot that is overwritten too early would show."""

        class Slow(Small):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                features = super().forward(images)
                for _ in range(200):
                    features = features * 1.0
                return features + 0 * images.mean()

        batch = images(512, 32)
        encoder = Encoder(prior(Slow(), 8, 32), "cuda", batch_rows=7, precision="float32")
        first = encoder.encode(batch)
        one_by_one = np.concatenate([encoder.encode(batch[i : i + 7]) for i in range(0, 512, 7)])
        assert np.array_equal(first, one_by_one)
        assert encoder.busy_seconds > 0

    def test_a_batch_that_does_not_fit_is_halved(self) -> None:
        class Greedy(Means):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                free, _ = torch.cuda.mem_get_info()
                torch.empty(len(images) * free // 5, dtype=torch.uint8, device=images.device)
                return super().forward(images)

        batch = images(30)
        encoder = Encoder(prior(), "cuda", batch_rows=16, precision="float32")
        encoder.module = Greedy()
        np.testing.assert_allclose(encoder.encode(batch), by_hand(batch), rtol=1e-4)
        assert encoder.batch_rows == 4

    def test_an_error_leaves_the_encoder_usable(self) -> None:
        encoder, batch = Encoder(prior(), "cuda", batch_rows=4, precision="float32"), images(20)
        whole, encoder.module = encoder.module, Raises()
        with pytest.raises(InputError, match="failed on a batch of 4 rows"):
            encoder.encode(batch)
        encoder.module = whole
        np.testing.assert_allclose(encoder.encode(batch), by_hand(batch), rtol=1e-4)
