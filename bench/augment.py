"""Random changes of training images, on whichever device they lie, a batch at a time.

A flip and a shift with reflected borders only say which pixel goes where. So a batch is one gather, by an index of
rows and one of columns per image: nothing is padded, no image is visited by itself, and nothing waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import InputError
from bench.recipes import Augmentation


@dataclass(frozen=True)
class Draws:
    """What is random about the augmentation of `[…]` images; None where there is none of the kind.

    Attributes:
        flip: bool `[…]`, whether to mirror left to right.
        shift: int16 `[…, 2]`, by how many pixels the window moves down and right.
        hole: int16 `[…, 2]`, row and column of the centre of the square to zero.
    """

    flip: Tensor | None = None
    shift: Tensor | None = None
    hole: Tensor | None = None

    def to(self, device: torch.device) -> Draws:
        """The same on `device`."""
        return Draws(*(None if t is None else t.to(device) for t in (self.flip, self.shift, self.hole)))

    def __getitem__(self, at: int) -> Draws:
        """Those of one batch of many."""
        return Draws(*(None if t is None else t[at] for t in (self.flip, self.shift, self.hole)))


def draw(
    augmentation: Augmentation, order: Tensor, n: int, image: tuple[int, int, int], generator: torch.Generator
) -> Draws:
    """The draws for a whole training, so that its steps draw nothing.

    Args:
        augmentation: what to draw.
        order: int64 `[steps, batch]`, positions in the subset as `bench.train.batch_order` gives them: passes over
            the subset one after another, where a batch may hold the end of one and the beginning of the next.
        n: size of the subset.
        image: channels, height and width.
        generator: where randomness comes from; the draws are made on its device.

    Raises:
        InputError: the images are too small to be shifted so far.
    """
    height, width = image[1:]
    if augmentation.translate >= min(height, width):
        raise InputError(f"translate={augmentation.translate} is too far for images of {height}×{width} pixels")
    size, where = tuple(order.shape), generator.device
    flip = shift = hole = None
    if augmentation.flip == "random":
        flip = torch.randint(2, size, generator=generator, device=where, dtype=torch.int8).bool()
    elif augmentation.flip == "alternating":
        first = torch.randint(2, (n,), generator=generator, device=where, dtype=torch.int8).bool()
        passes = torch.arange(order.numel(), device=where).view(size) // n
        flip = first[order.to(where)] ^ (passes % 2 == 1)
    if augmentation.translate:
        far = augmentation.translate
        shift = torch.randint(-far, far + 1, (*size, 2), generator=generator, device=where, dtype=torch.int16)
    if augmentation.cutout:
        rows = torch.randint(height, size, generator=generator, device=where, dtype=torch.int16)
        hole = torch.stack(
            [rows, torch.randint(width, size, generator=generator, device=where, dtype=torch.int16)], dim=-1
        )
    return Draws(flip, shift, hole)


def batch(images: Tensor, index: Tensor, draws: Draws, cutout: int = 0) -> Tensor:
    """Augmented images: mirrored, then shifted, then with a hole.

    Args:
        images: `[n, height, width, channels]`: channels last, so that each pixel gathered is one piece of memory.
        index: int64 `[batch]`, which images.
        draws: of this batch.
        cutout: side of the hole, which is cut off where it leaves the image.

    Returns:
        `[batch, channels, height, width]` in torch's channels-last memory format, in the images' dtype.
    """
    height, width = images.shape[1:3]
    if draws.flip is None and draws.shift is None:
        made = images.index_select(0, index)
    else:
        rows = _window(height, None if draws.shift is None else draws.shift[:, 0], index)
        columns = _window(width, None if draws.shift is None else draws.shift[:, 1], index)
        if draws.flip is not None:
            columns = torch.where(draws.flip[:, None], width - 1 - columns, columns)
        made = images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
    if draws.hole is not None:
        spared = (
            _outside(height, draws.hole[:, 0], cutout)[:, :, None] | _outside(width, draws.hole[:, 1], cutout)[:, None]
        )
        made = made * spared[..., None]
    return made.permute(0, 3, 1, 2)


def _window(size: int, shift: Tensor | None, index: Tensor) -> Tensor:
    """Positions along one axis that the image's pixels are taken from, int64 `[batch, size]`, reflected at the ends."""
    positions = torch.arange(size, device=index.device)
    if shift is None:
        return positions.expand(len(index), size)
    moved = (positions + shift[:, None]).abs()
    return torch.where(moved < size, moved, 2 * (size - 1) - moved)


def _outside(size: int, centre: Tensor, side: int) -> Tensor:
    """Whether each position along one axis lies outside the hole, bool `[batch, size]`."""
    begin = centre[:, None].long() - side // 2
    positions = torch.arange(size, device=centre.device)
    return (positions < begin) | (positions >= begin + side)
