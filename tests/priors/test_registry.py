from __future__ import annotations

import subprocess
import sys

import pytest

from coevo_ray.errors import UsageError
from coevo_ray.priors.registry import check_prior, load_prior, parse_prior


def test_a_prior_is_parsed_into_scheme_and_model() -> None:
    prior = parse_prior("open_clip:ViT-B-32/laion2b_s34b_b79k", 64)
    assert (prior.scheme, prior.model, prior.input_size) == ("open_clip", "ViT-B-32/laion2b_s34b_b79k", 64)
    assert prior.name == "open_clip:ViT-B-32/laion2b_s34b_b79k"
    assert parse_prior("callable:my.module:Encoder").model == "my.module:Encoder"


@pytest.mark.parametrize(
    ("spec", "cause", "remedy"),
    [
        ("efficientnetlite:0", "did you mean efficientnet_lite", "torchvision:MODEL/WEIGHTS"),
        ("openclip:ViT-B-32/openai", "did you mean open_clip", "open_clip:MODEL/PRETRAINED"),
        ("nonsense", "unknown prior 'nonsense'", "efficientnet_lite:0|1|2"),
        ("", "unknown prior ''", "efficientnet_lite:0|1|2"),
        ("efficientnet_lite:", "names no model", "efficientnet_lite:0|1|2"),
        ("torchvision", "names no model", "torchvision:MODEL/WEIGHTS"),
    ],
)
def test_unknown_priors_name_what_is_known(spec: str, cause: str, remedy: str) -> None:
    for look in (parse_prior, check_prior, load_prior):
        with pytest.raises(UsageError) as caught:
            look(spec)
        assert cause in caught.value.cause
        assert remedy in caught.value.remedy


def test_input_size_is_positive() -> None:
    with pytest.raises(UsageError, match="input_size of 0"):
        check_prior("efficientnet_lite:0", 0)


def test_no_library_is_imported_before_its_scheme_is_used() -> None:
    code = (
        "import sys; import coevo_ray.priors.registry as r; import coevo_ray.priors.efficientnet_lite, "
        "coevo_ray.priors.open_clip, coevo_ray.priors.file, coevo_ray.priors.column, coevo_ray.priors.user; "
        "r.parse_prior('open_clip:a');"
        "print([m for m in ('open_clip', 'torchvision', 'timm', 'huggingface_hub', 'efficientnet_lite_pytorch', 'ray') "
        "if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
