"""Weak and strong views against slow, obvious versions of their parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from coevo_ray.training.feed.images import scale_pixels
from coevo_ray.training.feed.views import NUMBERS, view_numbers
from coevo_ray.training.inputs.image_views import VIEW_NUMBERS, ConsistencyViews

SIZE = 16
IMAGES = torch.randint(0, 256, (40, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ROWS = np.arange(40)


def numbers(**columns: float) -> torch.Tensor:
    """All 0.5, which changes nothing, but for some columns."""
    made = torch.full((40, VIEW_NUMBERS), 0.5)
    made[:, NUMBERS + 8] = 0.0  # no cut
    for name, value in columns.items():
        made[:, int(name[1:])] = value
    return made


def test_a_weak_view_moves_by_whole_pixels_and_mirrors() -> None:
    drawn = view_numbers(ROWS, 0, 0, 0, VIEW_NUMBERS)
    made = ConsistencyViews().weak(IMAGES, drawn)
    mirrored, moves = 0, set()
    for row in range(40):
        right, down = (int(drawn[row, i].item() * 5) - 2 for i in (0, 1))  # an eighth of 16 pixels either way
        padded = np.pad(IMAGES[row].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
        view = padded[:, 2 + down : 2 + down + SIZE, 2 + right : 2 + right + SIZE]
        if drawn[row, 3] < 0.5:
            view, mirrored = view[:, :, ::-1], mirrored + 1
        expected = scale_pixels(torch.from_numpy(view.copy()).float()[None])[0]
        assert torch.equal(made[row], expected), row
        moves.add((right, down))
    assert 5 < mirrored < 35
    assert len(moves) > 10
    never = ConsistencyViews(flip=False).weak(IMAGES, numbers(c3=0.1))
    assert torch.equal(never, scale_pixels(IMAGES.float()))


def test_a_strong_view_of_no_strength_is_moved_and_mirrored_alone() -> None:
    assert torch.allclose(
        ConsistencyViews(strength=0).strong(IMAGES, numbers()), scale_pixels(IMAGES.float()), atol=1e-3
    )
    mirror = ConsistencyViews(strength=0).strong(IMAGES, numbers(c3=0.1))
    assert torch.allclose(mirror, scale_pixels(IMAGES.float()).flip(3), atol=1e-3)
    # Half way up from the middle is a sixteenth of the size: one pixel to the right, which shows what lies there.
    moved = ConsistencyViews(strength=0).strong(IMAGES, numbers(c0=0.75))
    assert torch.allclose(moved[..., :-1], scale_pixels(IMAGES.float())[..., 1:], atol=1e-3)


def test_a_square_is_cut_out_of_a_strong_view() -> None:
    made = ConsistencyViews(strength=0.5).strong(IMAGES, numbers(**{f"c{NUMBERS + 8}": 1.0, f"c{NUMBERS + 6}": 0.0}))
    # A side of 16 x 0.5 x 0.5 = 4 pixels about the top edge's middle: its upper half is outside.
    hole = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    hole[:2, 6:10] = True
    assert not made[:, :, hole].any()
    assert (made[:, :, ~hole] != 0).float().mean() > 0.99


def test_a_strong_view_solarises_what_is_bright() -> None:
    chosen: dict[str, Any] = {f"c{NUMBERS + 4}": 0.1, f"c{NUMBERS + 5}": 100 / 255}
    made = ConsistencyViews().strong(IMAGES, numbers(**chosen))
    expected = torch.where(IMAGES < 100, IMAGES, 255 - IMAGES).float()
    sure = (IMAGES.float() - 100).abs() > 1
    assert torch.allclose(made[sure], scale_pixels(expected)[sure], atol=1e-3)


def test_a_strong_view_turns_about_the_middle() -> None:
    disc = torch.zeros(40, 3, 17, 17, dtype=torch.uint8)
    disc[:, :, 8, 14] = 255
    # All the way up: 60 degrees at strength 2, and nothing else; the image turns the other way.
    made = ConsistencyViews(strength=2.0).strong(disc, numbers(c4=0.1, **{f"c{NUMBERS}": 1.0}))
    at = int(made[0].sum(dim=0).argmax())
    assert (at // 17, at % 17) == (round(8 - 6 * np.sin(np.pi / 3)), round(8 + 6 * np.cos(np.pi / 3)))


def test_views_follow_from_their_numbers_alone() -> None:
    drawn, order = view_numbers(ROWS, 0, 0, 1, VIEW_NUMBERS), torch.randperm(40)
    views = ConsistencyViews()
    for make in (views.weak, views.strong):
        assert torch.allclose(make(IMAGES, drawn)[order], make(IMAGES[order], drawn[order]), atol=1e-4)
    changed = (views.strong(IMAGES, drawn) - views.weak(IMAGES, drawn)).abs().mean(dim=(1, 2, 3))
    assert (changed > 0.1).all()
    assert torch.isfinite(views.strong(IMAGES, drawn)).all()
