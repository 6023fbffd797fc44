"""SGD for dense networks: one model trains from its first step to its last inside one compiled call.

A model that fits into a core's second-level cache never leaves it, and nothing is dispatched or allocated between
steps, which is where small models spend their time otherwise. Logistic regression is the network without hidden layers.

The arithmetic floor is 6 × parameters × batch × steps floating-point operations a model: one multiplication and one
addition per weight and example in each of a layer's three products, which are the outputs, the gradient of the weights
and the gradient of the inputs. (The first layer has no use for the last one: there it is 4.)

Layout: a layer's weights are kept transposed, `[inputs, outputs]`, cut into panels of 16 outputs, with the bias as the
weights of one more input that is always 1. All three products are then C = A · B where rows of B are contiguous
vectors of 16, and `_tile` keeps a tile of C in registers. Sizes are padded; what is in the padding is never read into
anything that is not padding.

A model's arithmetic depends on its own arguments alone. The kernels hold no thread pool and call no BLAS, whose threads
would wait for each other below callers that run a thread per core.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

Array = NDArray[Any]

# A product and a sum may become one instruction, and nothing else: NaN and infinity keep their meaning, so that a model
# that diverged looks like it, and sums their order. It has to be said of each function: one without flags takes those
# of whichever function calls it first.
_MATH = {"contract"}

LANES = 16  # floats in a cache line, and in the widest vector registers
ROWS = 6  # rows of a tile: 6 × 16 sums fill the registers of AVX2, and hide the latency of AVX-512

_ZERO = np.float32(0)
_ONE = np.float32(1)
# As variables: for each literal number numba would compile a function anew.
_NOWHERE: Any = np.int64(0)
_ONE_APART: Any = np.int64(1)
_LANE_APART: Any = np.int64(LANES)


def stride(n: int) -> int:
    """Floats from a row of `n` activations to the next: with the 1 for the bias and a tile's padding.

    An odd number of cache lines, so that the entries of a column spread over all sets of the cache.
    """
    return (-(-(n + ROWS) // LANES) | 1) * LANES


@njit(cache=True, nogil=True, fastmath=_MATH)
def _deep(n_in: int) -> int:
    """Rows of a panel of weights: `n_in`, the bias, and padding to whole tiles."""
    return (n_in + ROWS) // ROWS * ROWS


def _tile_of_product(
    context: Any,  # noqa: ARG001
    a: Any,
    a_at: Any,
    a_row: Any,
    a_col: Any,
    b: Any,
    b_at: Any,
    b_row: Any,
    c: Any,
    c_at: Any,
    c_row: Any,
    depth: Any,
) -> tuple[Any, Callable[..., Any]]:
    """`C[:6, :16] = A[:6, :depth] @ B[:depth, :16]` in vector registers.

    LLVM does not vectorise such a loop nest by itself: it would load and store the sums at every step. Vectors of 16
    floats are legal everywhere; where registers are narrower it splits them.

    Args (each matrix is a 1-D float32 array, where it begins in it, and its strides, all in floats):
        a, a_at, a_row, a_col: A.
        b, b_at, b_row: B, its rows contiguous.
        c, c_at, c_row: C, its rows contiguous; overwritten.
        depth: number of products in each sum, taken in order.
    """
    signature = types.void(a, a_at, a_row, a_col, b, b_at, b_row, c, c_at, c_row, depth)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def data(i: int) -> Any:
            return make_array(signature.args[i])(context, builder, args[i]).data

        a, b, c = data(0), data(4), data(7)
        _, a_at, a_row, a_col, _, b_at, b_row, _, c_at, c_row, depth = args
        one = ir.FloatType()
        vector = ir.VectorType(one, LANES)

        def row(start: Any, stride: Any, r: int) -> Any:
            return builder.add(start, builder.mul(stride, ir.Constant(stride.type, r)))

        def pointer(base: Any, at: Any) -> Any:
            return builder.bitcast(builder.gep(base, [at]), vector.as_pointer())

        # Optimisation turns these into registers.
        sums = [cgutils.alloca_once(builder, vector) for _ in range(ROWS)]
        for total in sums:
            builder.store(ir.Constant(vector, [0.0] * LANES), total)
        starts = [row(a_at, a_row, r) for r in range(ROWS)]
        undefined = ir.Constant(vector, ir.Undefined)
        lane = ir.Constant(ir.IntType(32), 0)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        with cgutils.for_range(builder, depth) as loop:
            right = builder.load(pointer(b, builder.add(b_at, builder.mul(b_row, loop.index))), align=4)
            along = builder.mul(a_col, loop.index)
            for start, total in zip(starts, sums, strict=True):
                left = builder.load(builder.gep(a, [builder.add(start, along)]))
                left = builder.shuffle_vector(builder.insert_element(undefined, left, lane), undefined, everywhere)
                product = builder.fmul(left, right, flags=["contract"])
                builder.store(builder.fadd(builder.load(total), product, flags=["contract"]), total)
        for r, total in enumerate(sums):
            builder.store(builder.load(total), pointer(c, row(c_at, c_row, r)), align=4)
        return context.get_dummy_value()

    return signature, generate


_tile: Any = intrinsic(_tile_of_product)


@njit(cache=True, nogil=True, fastmath=_MATH)
def _multiply(
    a: Array,
    a_at: int,
    a_row: int,
    a_col: int,
    b: Array,
    b_at: int,
    b_panel: int,
    b_row: int,
    c: Array,
    c_at: int,
    c_panel: int,
    c_row: int,
    rows: int,
    columns: int,
    depth: int,
) -> None:
    """C = A · B, `rows` rounded up to whole tiles and `columns` to whole panels of 16. All as for `_tile`."""
    for p in range((columns + LANES - 1) // LANES):
        b_from = b_at + p * b_panel
        for i in range(0, rows, ROWS):
            _tile(a, a_at + i * a_row, a_row, a_col, b, b_from, b_row, c, c_at + p * c_panel + i * c_row, c_row, depth)


_LOG2_E = np.float32(1.44269504088896341)
_LN_2_HIGH = np.float32(0.693359375)  # few bits: n · _LN_2_HIGH is exact
_LN_2_LOW = np.float32(-2.12194440e-4)
_ROUND = np.float32(1.5 * 2**23)  # adding it leaves the nearest integer in the low bits: where sums keep their order
_LOWEST = np.float32(-80)  # what is smaller is nothing beside the largest, but its products are slow: denormal


@njit(cache=True, nogil=True, fastmath=_MATH)
def _exp(z: Array) -> None:
    """Exponential in place for z ≤ 0, to two units in the last place; NaN where z is, and exp(−80) = 2e-35 below −80.

    Cephes' expf without branches, so that it is vectorised; calls of libm's took longer than all the rest of a step.
    """
    for i in range(z.size):
        x = z[i]
        x = _LOWEST if x < _LOWEST else x
        shifted = x * _LOG2_E + _ROUND
        n = shifted - _ROUND
        x = x - n * _LN_2_HIGH - n * _LN_2_LOW
        tail = np.float32(1.9875691500e-4)
        tail = tail * x + np.float32(1.3981999507e-3)
        tail = tail * x + np.float32(8.3334519073e-3)
        tail = tail * x + np.float32(4.1665795894e-2)
        tail = tail * x + np.float32(1.6666665459e-1)
        tail = tail * x + np.float32(5.0000001201e-1)
        power = np.int32((np.float32(shifted).view(np.int32) << 23) + 0x3F800000).view(np.float32)
        z[i] = (tail * x * x + x + _ONE) * power


@njit(cache=True, nogil=True, fastmath=_MATH)
def _softmax_gradient(
    z: Array, slope: Array, stride: int, y: Array, examples: Array, n_classes: int, smoothing: np.float32
) -> None:
    """Gradient of the mean cross-entropy with respect to the logits.

    Args:
        z: float32 `[rows · stride]`, logits in the first `n_classes` columns of a row for each example; what is left in
            it has no meaning.
        slope: float32 `[rows · stride]`, out; the padding is left as it is.
        stride: floats a row.
        y: int64 `[n]`, labels.
        examples: int64 `[batch]`, which of them are in the batch.
        n_classes: number of classes.
        smoothing: share of each label that is spread over all classes.
    """
    for i in range(examples.size):
        at = i * stride
        largest = z[at]
        for c in range(1, n_classes):
            largest = z[at + c] if z[at + c] > largest else largest
        for c in range(n_classes):
            z[at + c] -= largest
    _exp(z)
    share = _ONE / np.float32(examples.size)
    even = smoothing / np.float32(n_classes) * share
    for i in range(examples.size):
        at = i * stride
        total = _ZERO
        for c in range(n_classes):
            total += z[at + c]
        scale = share / total
        for c in range(n_classes):
            slope[at + c] = z[at + c] * scale - even
        slope[at + y[examples[i]]] -= (_ONE - smoothing) * share


@njit(cache=True, nogil=True, fastmath=_MATH)
def _leave_empty(slope: Array, stride: int, examples: Array, n_classes: int) -> None:
    """Set the gradient with respect to the logits to zero where `examples` has −1; all as for `_softmax_gradient`."""
    for i in range(examples.size):
        if examples[i] < 0:
            for c in range(n_classes):
                slope[i * stride + c] = _ZERO


@njit(cache=True, nogil=True, fastmath=_MATH)
def _transpose(w: Array, start: int, n_in: int, n_out: int, transposed: Array) -> None:
    """Panels `[n_out / 16][n_in + 1][16]` of the weights from `start` to `[n_in / 16][n_out][16]`, without the bias."""
    deep = _deep(n_in)
    for q in range(0, n_in, LANES):
        width = min(LANES, n_in - q)
        for p in range(0, n_out, LANES):
            height = min(LANES, n_out - p)
            source = start + p * deep + q * LANES
            target = q * n_out + p * LANES
            for i in range(height):
                for j in range(width):
                    transposed[target + i * LANES + j] = w[source + j * LANES + i]


@njit(cache=True, nogil=True, fastmath=_MATH)
def _update(
    w: Array, v: Array, g: Array, rate: np.float32, momentum: np.float32, decay: np.float32, nesterov: bool
) -> None:
    """One step of torch.optim.SGD: weights `w`, momentum buffer `v`, gradient `g`, all `[n]`."""
    if nesterov:
        for i in range(w.size):
            slope = g[i] + decay * w[i]
            v[i] = momentum * v[i] + slope
            w[i] -= rate * (slope + momentum * v[i])
    else:
        for i in range(w.size):
            v[i] = momentum * v[i] + (g[i] + decay * w[i])
            w[i] -= rate * v[i]


@njit(cache=True, nogil=True, fastmath=_MATH)
def _relu(z: Array) -> None:
    """In place; NaN stays NaN."""
    for i in range(z.size):
        z[i] = _ZERO if z[i] < _ZERO else z[i]


@njit(cache=True, nogil=True, fastmath=_MATH)
def _mask(slope: Array, active: Array) -> None:
    """Gradient by the inputs of a ReLU from that by its outputs, in place."""
    for i in range(slope.size):
        slope[i] = _ZERO if active[i] <= _ZERO else slope[i]


@njit(cache=True, nogil=True, fastmath=_MATH)
def forward(w: Array, a: Array, sizes: Array, strides: Array, at: Array, start: Array, rows: int) -> None:
    """Activations of every layer from those of the first, the inputs.

    Args:
        w: float32, weights in panels, each layer's from `start[layer]`.
        a: float32, activations: each layer's `[rows, strides[layer]]` from `at[layer]`. The last ones are the logits.
        sizes: int64 `[layers + 1]`: number of features, hidden units of each layer, classes.
        strides: int64 `[layers + 1]`, see `stride`.
        at: int64 `[layers + 2]`.
        start: int64 `[layers + 1]`.
        rows: number of examples, rounded up to whole tiles.
    """
    for layer in range(sizes.size - 1):
        below = at[layer]
        above = at[layer + 1]
        n_in = sizes[layer]
        n_out = sizes[layer + 1]
        wide = strides[layer + 1]
        panel = _deep(n_in) * LANES
        _multiply(
            a, below, strides[layer], _ONE_APART, w, start[layer], panel, _LANE_APART, a, above, _LANE_APART, wide,
            rows, n_out, n_in + 1,
        )  # fmt: skip
        if layer < sizes.size - 2:
            _relu(a[above : above + rows * wide])
            for i in range(rows):
                a[above + i * wide + n_out] = _ONE  # what the bias of the next layer is multiplied by


@njit(cache=True, nogil=True, fastmath=_MATH)
def descend(
    w: Array,
    v: Array,
    g: Array,
    a: Array,
    slopes: Array,
    transposed: Array,
    sizes: Array,
    strides: Array,
    at: Array,
    start: Array,
    x: Array,
    y: Array,
    order: Array,
    rates: Array,
    momentum: np.float32,
    decay: np.float32,
    smoothing: np.float32,
    nesterov: bool,
) -> None:
    """Train one model by steps of SGD on the cross-entropy, as torch.optim.SGD takes them.

    Called with the next steps of a training, it goes on as if it had not been interrupted.

    Args:
        w: float32, in and out: weights in panels, zeros in the padding.
        v: as `w`, in and out: momentum buffers, zeros at first.
        g: as `w`: room for the gradient.
        a: room for activations, as `forward` takes them; zeros, with ones in column `sizes[0]` of the inputs.
        slopes: as `a`, zeros: room for the loss's derivatives by them.
        transposed: float32, room for the weights of any layer but the first, see `_transpose`.
        sizes: int64 `[layers + 1]`, as for `forward`.
        strides: int64 `[layers + 1]`, as for `forward`.
        at: int64 `[layers + 2]`, as for `forward`.
        start: int64 `[layers + 1]`, as for `forward`.
        x: float32 `[n, sizes[0]]`.
        y: int64 `[n]`.
        order: int64 `[steps, batch]`, the examples of each step; −1 for a place that is left empty: it counts in the
            batch's mean loss with nothing.
        rates: float32 `[steps]`, their learning rates.
        momentum: factor of the momentum buffer.
        decay: weight decay, of biases too.
        smoothing: share of each label that is spread over all classes.
        nesterov: take Nesterov's steps.
    """
    layers = sizes.size - 1
    n_classes = sizes[layers]
    batch = order.shape[1]
    rows = (batch + ROWS - 1) // ROWS * ROWS
    logits = a[at[layers] : at[layers + 1]]
    loss_slope = slopes[at[layers] : at[layers + 1]]
    for step in range(order.shape[0]):
        for i in range(batch):
            example = x[max(order[step, i], 0)]  # of an empty place any will do, and any label
            for k in range(example.size):
                a[i * strides[0] + k] = example[k]
        forward(w, a, sizes, strides, at, start, rows)
        _softmax_gradient(logits, loss_slope, strides[layers], y, order[step], n_classes, smoothing)
        _leave_empty(loss_slope, strides[layers], order[step], n_classes)
        for layer in range(layers - 1, -1, -1):
            below = at[layer]
            above = at[layer + 1]
            n_in = sizes[layer]
            n_out = sizes[layer + 1]
            narrow = strides[layer]
            wide = strides[layer + 1]
            deep = _deep(n_in)
            _multiply(
                a, below, _ONE_APART, narrow, slopes, above, _LANE_APART, wide, g, start[layer], deep * LANES,
                _LANE_APART, deep, n_out, batch,
            )  # fmt: skip
            if layer > 0:
                _transpose(w, start[layer], n_in, n_out, transposed)
                _multiply(
                    slopes, above, wide, _ONE_APART, transposed, _NOWHERE, n_out * LANES, _LANE_APART, slopes, below,
                    _LANE_APART, narrow, rows, n_in, n_out,
                )  # fmt: skip
                _mask(slopes[below:above], a[below:above])
        _update(w, v, g, rates[step], momentum, decay, nesterov)
