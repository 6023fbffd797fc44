"""Augmentation by gathering, against images changed one at a time in numpy."""

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import augment
from bench.augment import Draws
from bench.errors import InputError
from bench.recipes import Augmentation

IMAGE = (3, 7, 5)


def images(n: int = 20, image: tuple[int, int, int] = IMAGE) -> Tensor:
    """`[n, height, width, channels]`, no value zero."""
    channels, height, width = image
    return torch.rand(n, height, width, channels, generator=torch.Generator().manual_seed(0)) + 0.5


def draws(augmentation: Augmentation, order: Tensor, n: int, seed: int = 0) -> Draws:
    return augment.draw(augmentation, order, n, IMAGE, torch.Generator().manual_seed(seed))


def one(
    image: NDArray[np.float32], flip: bool, shift: tuple[int, int], hole: tuple[int, int] | None, side: int
) -> NDArray[np.float32]:
    """`[channels, height, width]`, with padding and slices."""
    height, width = image.shape[1:]
    far = max(abs(s) for s in shift)
    mirrored = image[:, :, ::-1] if flip else image
    padded = np.pad(mirrored, ((0, 0), (far, far), (far, far)), mode="reflect")
    made = padded[:, far + shift[0] : far + shift[0] + height, far + shift[1] : far + shift[1] + width].copy()
    if hole is not None:
        for i, j in itertools.product(range(height), range(width)):
            down, right = i - hole[0] + side // 2, j - hole[1] + side // 2
            if 0 <= down < side and 0 <= right < side:
                made[:, i, j] = 0
    return made


@pytest.mark.parametrize("flip", ["none", "random", "alternating"])
@pytest.mark.parametrize("translate", [0, 1, 4])
@pytest.mark.parametrize("cutout", [0, 2, 3])
def test_equal_to_one_image_at_a_time(flip: str, translate: int, cutout: int) -> None:
    wanted = Augmentation(flip, translate, cutout)  # type: ignore[arg-type]
    x, order = images(), torch.randint(12, (5, 8), generator=torch.Generator().manual_seed(1))
    index = torch.randint(20, (5, 8), generator=torch.Generator().manual_seed(2))
    drawn = draws(wanted, order, 12)
    for step in range(5):
        made = augment.batch(x, index[step], drawn[step], cutout)
        assert made.shape == (8, *IMAGE)
        assert made.is_contiguous(memory_format=torch.channels_last)
        for b in range(8):
            expected = one(
                x[index[step, b]].permute(2, 0, 1).numpy(),
                drawn.flip is not None and bool(drawn.flip[step, b]),
                (0, 0) if drawn.shift is None else (int(drawn.shift[step, b, 0]), int(drawn.shift[step, b, 1])),
                None if drawn.hole is None else (int(drawn.hole[step, b, 0]), int(drawn.hole[step, b, 1])),
                cutout,
            )
            np.testing.assert_array_equal(made[b], expected)


def test_without_augmentation_images_are_themselves() -> None:
    x, index = images(), torch.tensor([3, 3, 0])
    made = augment.batch(x, index, draws(Augmentation(), index[None], 4)[0])
    assert torch.equal(made, x.permute(0, 3, 1, 2)[index])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16])
def test_keeps_the_dtype(dtype: torch.dtype) -> None:
    x, order = (images() * 100).to(dtype), torch.arange(8)[None]
    made = augment.batch(x, order[0], draws(Augmentation("random", 2, 2), order, 8)[0], 2)
    assert made.dtype == dtype


def test_alternating_flips_are_random_first_and_then_take_turns() -> None:
    """Whichever order the images come in, and where batches hold the end of one pass and the beginning of the next."""
    n, passes = 1001, 5
    rng = np.random.default_rng(0)
    visits = np.concatenate([rng.permutation(n) for _ in range(passes)])
    order = torch.from_numpy(visits[: 77 * 65].reshape(77, 65))
    flip = draws(Augmentation("alternating"), order, n).flip
    assert flip is not None
    flips: dict[int, list[bool]] = {}
    for image, mirrored in zip(order.reshape(-1).tolist(), flip.reshape(-1).tolist(), strict=True):
        flips.setdefault(image, []).append(mirrored)
    first = [of[0] for of in flips.values()]
    assert abs(np.mean(first) - 0.5) < 4 * 0.5 / n**0.5
    assert all(a != b for of in flips.values() for a, b in itertools.pairwise(of))


def test_draws_are_uniform() -> None:
    order = torch.arange(40_000).view(40, 1000)
    drawn = draws(Augmentation("random", 2, 3), order, 40_000)
    assert drawn.flip is not None
    assert drawn.shift is not None
    assert drawn.hole is not None
    assert abs(drawn.flip.double().mean() - 0.5) < 4 * 0.5 / 200
    joint = (drawn.shift[..., 0].long() + 2) * 5 + drawn.shift[..., 1].long() + 2
    places = drawn.hole[..., 0].long() * 5 + drawn.hole[..., 1].long()
    for values, cells in ((joint, 25), (places, 35)):
        counts = torch.bincount(values.reshape(-1), minlength=cells).double()
        expected = 40_000 / cells
        assert len(counts) == cells
        assert ((counts - expected) ** 2 / expected).sum() < cells + 5 * (2 * cells) ** 0.5  # chi squared


def test_random_flips_are_drawn_anew_each_time() -> None:
    order = torch.arange(500).repeat(2).view(2, 500)
    flip = draws(Augmentation("random"), order, 500).flip
    assert flip is not None
    assert 0.35 < float((flip[0] == flip[1]).double().mean()) < 0.65


def test_one_generator_one_outcome() -> None:
    """Nothing but the generator counts: not torch's own, which is left as it was."""
    order, before = torch.arange(40).view(4, 10), torch.get_rng_state()
    a, b, c = (draws(Augmentation("random", 2, 2), order, 40, seed) for seed in (1, 1, 2))
    for name in ("flip", "shift", "hole"):
        assert torch.equal(getattr(a, name), getattr(b, name))
        assert not torch.equal(getattr(a, name), getattr(c, name))
    assert torch.equal(torch.get_rng_state(), before)


def test_shifts_beyond_the_reflection_are_refused() -> None:
    with pytest.raises(InputError, match=r"translate=5.*7×5"):
        draws(Augmentation(translate=5), torch.arange(4)[None], 4)
