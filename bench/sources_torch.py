"""Rows of masks and margins on their way to a device, chunk by chunk: the whole matrix is never on it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import InputError
from bench.gram import on_host
from bench.wording import counted

_MOST_ROWS = 32_768  # of a chunk: adding a block of counts then takes a fraction of its product
_HOST_BYTES = 2**29  # of a chunk on the host; two are pinned


class Source(Protocol):
    """What rows come from.

    Attributes:
        m: rows.
        n: train examples.
        T: targets.
    """

    m: int
    n: int
    T: int

    def chunks(self, step: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """All rows in order, at most `step` at a time.

        Yields:
            The rows, their masks (0/1: uint8 or bool) `[r, n]` and margins (real) `[r, T]`, on the device.
        """
        ...


def chunk_rows(source: Source, budget: int) -> int:
    """Rows of a chunk whose copies on the device fit in `budget` bytes, but for blocks of a few hundred MB.

    Of masks: a chunk worked on and one on its way, its rows of one part, and those transposed. Of margins: both chunks,
    and what is multiplied, all in float64.
    """
    return int(np.clip(budget // (4 * source.n + 24 * source.T), 64, _MOST_ROWS))


class TensorSource:
    """Rows that are on their device already.

    Args:
        masks: bool or 0/1 `[m, n]`.
        margins: real `[m, T]`.
    """

    def __init__(self, masks: Tensor, margins: Tensor):
        self.m, self.n, self.T = _shapes(tuple(masks.shape), tuple(margins.shape))
        self.masks, self.margins = masks.detach(), margins.detach()

    def chunks(self, step: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """See `Source`."""
        for first in range(0, self.m, step):
            rows = slice(first, min(first + step, self.m))
            yield rows, _bytes(self.masks[rows], first), self.margins[rows]


class HostSource:
    """Rows of arrays or memmaps on the host, or of tensors wherever they are.

    A thread reads a chunk and copies it to the device while the chunk before is worked on. To a CUDA device the copies
    go through two pairs of pinned buffers, on a stream of their own.

    Args:
        masks: bool or 0/1 `[m, n]`, array or memmap.
        margins: real `[m, T]`, array or memmap.
        device: where the chunks go.
    """

    def __init__(self, masks: Any, margins: Any, device: torch.device | str = "cpu"):
        self.m, self.n, self.T = _shapes(np.shape(masks), np.shape(margins))
        self.masks, self.margins = masks, margins
        self.device = torch.device(device)

    def chunks(self, step: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """See `Source`."""
        step = max(1, min(step, _HOST_BYTES // self._row_bytes()))
        parts = [slice(first, min(first + step, self.m)) for first in range(0, self.m, step)]
        read = self._read if self.device.type != "cuda" else _Pinned(self, min(step, self.m))
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(read, parts[0])
            for i, rows in enumerate(parts):
                masks, margins, copied = coming.result()
                if i + 1 < len(parts):
                    coming = thread.submit(read, parts[i + 1])
                if copied is not None:
                    here = torch.cuda.current_stream(self.device)
                    here.wait_event(copied)
                    # Made on the other stream: its memory may not be used anew before this one is done with it.
                    masks.record_stream(here)
                    margins.record_stream(here)
                yield rows, masks, margins

    def _row_bytes(self) -> int:
        return sum(on_host(given[:1]).nbytes for given in (self.masks, self.margins))

    def _read(self, rows: slice) -> tuple[Tensor, Tensor, None]:
        masks, margins = self.host(rows)
        return torch.from_numpy(masks).to(self.device), torch.from_numpy(margins).to(self.device), None

    def host(self, rows: slice) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Copies of some rows: masks as uint8, margins as a dtype that torch has.

        Raises:
            InputError: masks other than 0/1, margins that are no real numbers.
        """
        masks, margins = np.array(on_host(self.masks[rows])), np.array(on_host(self.margins[rows]))
        if masks.dtype == np.bool_:
            masks = masks.view(np.uint8)
        else:
            wrong = (masks != 0) & (masks != 1)
            if wrong.any():
                r, j = np.argwhere(wrong)[0]
                raise _not_a_mask(rows.start + r, j, masks[r, j])
            masks = masks.astype(np.uint8)
        if margins.dtype.kind not in "fiu":
            raise InputError(f"margins has dtype {margins.dtype}; give real numbers (float32).")
        known = margins.dtype in (np.float16, np.float32, np.float64)
        return masks, margins if known else margins.astype(np.float64)


class _Pinned:
    """Reads chunks into pinned memory and copies them to a CUDA device from there, on a stream of its own."""

    def __init__(self, source: HostSource, step: int):
        self.source = source
        self.stream = torch.cuda.Stream(source.device)
        margins = torch.from_numpy(source.host(slice(0, 1))[1]).dtype
        self.buffers = [
            (
                torch.empty(step, source.n, dtype=torch.uint8, pin_memory=True),
                torch.empty(step, source.T, dtype=margins, pin_memory=True),
            )
            for _ in range(2)
        ]
        self.events = [torch.cuda.Event() for _ in range(2)]
        self.turn = 0

    def __call__(self, rows: slice) -> tuple[Tensor, Tensor, torch.cuda.Event]:
        buffers, event = self.buffers[self.turn], self.events[self.turn]
        self.turn = 1 - self.turn
        event.synchronize()  # the copy out of these buffers, two chunks ago
        copies = []
        with torch.cuda.stream(self.stream):
            for buffer, array in zip(buffers, self.source.host(rows), strict=True):
                part = buffer[: len(array)]
                part.copy_(torch.from_numpy(array))
                copies.append(part.to(self.source.device, non_blocking=True))
            event.record(self.stream)
        return copies[0], copies[1], event


def _bytes(masks: Tensor, first: int) -> Tensor:
    if masks.dtype in (torch.bool, torch.uint8):
        return masks
    wrong = (masks != 0) & (masks != 1)
    if bool(wrong.any()):
        r, j = wrong.nonzero()[0].tolist()
        raise _not_a_mask(first + r, j, masks[r, j].item())
    return masks.to(torch.uint8)


def _not_a_mask(row: int, column: int, value: Any) -> InputError:
    return InputError(f"masks[{row}, {column}] is {value}; masks hold 0/1 (or bool): kept or not.")


def _shapes(masks: tuple[int, ...], margins: tuple[int, ...]) -> tuple[int, int, int]:
    for name, shape in (("masks", masks), ("margins", margins)):
        if len(shape) != 2 or 0 in shape:
            raise InputError(f"{name} has shape {shape}; give a non-empty matrix with one row per trained model.")
    if masks[0] != margins[0]:
        raise InputError(
            f"masks has {counted(masks[0], 'row')} and margins {margins[0]}; give one row per trained model in both."
        )
    return masks[0], masks[1], margins[1]
