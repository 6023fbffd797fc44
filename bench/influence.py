"""Explicit influence functions with a damped Gauss–Newton matrix.

Koh and Liang (2017), eq. 1–2: to first order, keeping example k changes the parameters by −H⁻¹∇ℓ_k/n, hence the
margin of target j by

    score[k, j] = −∇m_jᵀ (G + (w + λ) I)⁻¹ ∇ℓ_k / n,

with G the Gauss–Newton matrix of the mean loss, (1/n) Σ_i J_iᵀ (diag(p_i) − p_i p_iᵀ) J_i (Schraudolph 2002; it is
the Hessian where the logits are linear in the parameters, as in logistic regression), w the recipe's weight decay
and λ a ridge: 0 is exact for a converged model; damping is a ridge in units of the mean diagonal of G.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from bench import gradients, halving
from bench.models import Flat
from bench.recipes import Output
from bench.subsets import subset_size

if TYPE_CHECKING:
    from bench.task import Task

Damping = float | Literal["early-stopping"]
DAMPINGS: tuple[Damping, ...] = ("early-stopping", 0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0)
"""What influence functions choose from on tune rows."""

_CHUNK_BYTES = 256 * 2**20
_FLOAT32_FROM = 0.1
_DOUBLE_UP_TO = 10_000  # parameters: a float64 matrix of more takes over 800 MB


class Influence:
    """Influence of every training example on every target, at one set of parameters.

    Args:
        flat: the model; vector: its parameters, trained on all of `train`.
        train: examples and labels; test: targets and labels.
        weight_decay: of the objective, mean loss + weight_decay/2 ‖θ‖².
        output: the margin that scores predict.
        smoothing: of the labels, in training.
    """

    def __init__(
        self,
        flat: Flat,
        vector: Tensor,
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor],
        weight_decay: float,
        output: Output,
        smoothing: float = 0.0,
    ) -> None:
        self.flat, self.vector, self.train, self.weight_decay = flat, vector, train, weight_decay
        self.smoothing = smoothing
        self.matrix = gauss_newton(flat, vector, train[0])
        self.mean_diagonal = float(self.matrix.diagonal().mean())
        self.target_gradients = gradients.stacked(flat, vector, *test, "margin", output)

    def scores(self, ridge: float) -> Tensor:
        """Scores `[n_train, n_targets]` float32 with λ = `ridge`.

        Raises:
            ValueError: the damped matrix is singular to working precision.
        """
        # With a tenth of the mean diagonal added, float32 is accurate to about 1e-3 and takes a third of the time.
        double = ridge < _FLOAT32_FROM * self.mean_diagonal
        damped = self.matrix.clone() if double else self.matrix.to(torch.float32, copy=True)
        damped.diagonal().add_(self.weight_decay + ridge)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if failed:
            raise ValueError(
                f"the Gauss–Newton matrix with ridge {ridge:g} and weight decay {self.weight_decay:g} is singular to "
                "working precision: use a larger damping"
            )
        solved = torch.cholesky_solve(self.target_gradients.T.to(damped.dtype), factor).to(self.vector.dtype)
        del damped, factor
        return effects(self.flat, self.vector, self.train, solved.T, self.smoothing)


def effects(flat: Flat, vector: Tensor, train: tuple[Tensor, Tensor], solved: Tensor, smoothing: float) -> Tensor:
    """−∇ℓ_kᵀ s_j / n `[n_train, k]` for each row s_j of `solved` `[k, n_parameters]`, by chunks of examples."""
    n = len(train[1])
    made = vector.new_empty(n, len(solved))
    for part, g in gradients.chunks(flat, vector, *train, "loss", smoothing=smoothing):
        torch.mm(g, solved.T, out=made[part])
    return made.mul_(-1 / n)


def ridge(damping: Damping, unit: float, task: Task) -> float:
    """λ of a damping: in units of the mean diagonal `unit`, or the ridge that the recipe's steps amount to."""
    if damping == "early-stopping":
        return task.setting.recipe.early_stopping_ridge(subset_size(task.data.n_train, task.alpha))
    return damping * unit


def gauss_newton(flat: Flat, vector: Tensor, x: Tensor) -> Tensor:
    """The Gauss–Newton matrix of the mean cross-entropy over `x`, `[n_parameters, n_parameters]`.

    float64 up to 10,000 parameters, else the parameters' own type. Where every parameter is in a linear layer that is
    used once, blocks are made from layer inputs and output Jacobians, which costs a tenth of the dense form for ten
    classes; otherwise from dense Jacobians.
    """
    dtype = torch.float64 if len(vector) <= _DOUBLE_UP_TO else vector.dtype
    layers = linear_layers(flat.module)
    if layers is None:
        return _dense(flat, vector, x, dtype)
    flat.load(vector)
    widest = max(layer.out_features * (layer.in_features + 1) for layer in layers)
    step = min(len(x), max(1, _CHUNK_BYTES // (4 * widest)))
    return halving.whole(lambda step: _layered(flat, layers, x, dtype, step), step)[0]


def linear_layers(module: nn.Module) -> list[nn.Linear] | None:
    """The layers of a plain stack that holds all parameters in linear layers with biases; else None."""
    if not isinstance(module, nn.Sequential):
        return None
    layers = [layer for layer in module if isinstance(layer, nn.Linear)]
    plain = all(isinstance(layer, nn.Linear | nn.ReLU | nn.Flatten) for layer in module)
    biased = all(layer.bias is not None for layer in layers)
    return layers if plain and biased and len(set(layers)) == len(layers) else None


def _dense(flat: Flat, vector: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Σ_i J_iᵀ (diag(p) − ppᵀ) J_i / n from dense Jacobians of the logits, a few examples at a time."""
    count = flat.n_parameters
    parameters, buffers = vector.split([count, len(vector) - count])

    def logits(v: Tensor, one: Tensor) -> Tensor:
        return flat(torch.cat([v, buffers]), one.unsqueeze(0)).squeeze(0)

    jacobian = torch.func.vmap(torch.func.jacrev(logits), in_dims=(None, 0))
    made = torch.zeros(count, count, dtype=dtype, device=vector.device)

    def gram(part: slice) -> Tensor:
        p = torch.softmax(flat(vector, x[part]), 1)
        j = torch.einsum("ncd,ncp->ndp", curvature_root(p), jacobian(parameters, x[part])).reshape(-1, count)
        return (j.T @ j).to(dtype)

    with torch.no_grad():
        classes = flat(vector, x[:1]).shape[1]
        for _, found in halving.each(gram, len(x), max(1, _CHUNK_BYTES // (4 * 4 * classes * count))):
            made += found
    return made / len(x)


def curvature_root(p: Tensor) -> Tensor:
    """R `[n, C, C]` with R Rᵀ = diag(p) − p pᵀ: R = diag(√p) (I − √p √pᵀ)."""
    s = p.sqrt()
    eye = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
    return s[:, :, None] * (eye - s[:, :, None] * s[:, None, :])


def _layered(flat: Flat, layers: list[nn.Linear], x: Tensor, dtype: torch.dtype, step: int) -> Tensor:
    """The same from a, the layers' inputs (with a 1 for the bias), and B, the logits' Jacobians in their outputs.

    `step` examples are worked on at a time.

    The block of units (o, p) of layers (l, m) is Σ_i M_i[o, p] a_i aᵀ_i with M_i = B_iᵀ (diag(p_i) − p_i p_iᵀ) B_i.
    """
    widths = [layer.in_features + 1 for layer in layers]
    starts = [sum(w * q.out_features for w, q in zip(widths[:i], layers, strict=False)) for i in range(len(layers))]
    size = sum(flat.sizes)
    made = torch.zeros(size, size, dtype=dtype, device=x.device)  # unit by unit, each with its weights and bias
    for part in x.split(step):
        inputs, jacobians, p = inputs_and_jacobians(flat.module, layers, part)
        weighted = [j * p[:, :, None] for j in jacobians]
        means = [w.sum(1) for w in weighted]
        for li in range(len(layers)):
            for mi in range(li, len(layers)):
                cross = torch.einsum("nco,ncp->nop", weighted[li], jacobians[mi])
                cross -= means[li][:, :, None] * means[mi][:, None, :]
                for o in range(cross.shape[1]):
                    first = o if li == mi else 0  # the matrix is symmetric: its upper half is enough
                    right = cross[:, o, first:, None] * inputs[mi][:, None, :]
                    block = inputs[li].T @ right.reshape(len(part), -1)
                    row, column = starts[li] + o * widths[li], starts[mi] + first * widths[mi]
                    made[row : row + widths[li], column : column + block.shape[1]] += block.to(dtype)
    made.triu_()
    made += made.triu(1).T
    order = _unit_order(flat, layers)
    return made[order[:, None], order].div_(len(x))


def _unit_order(flat: Flat, layers: list[nn.Linear]) -> Tensor:
    """For each parameter of the vector its place when parameters are listed unit by unit, bias last."""
    place: dict[str, Tensor] = {}
    names = {id(p): name for name, p in flat.module.named_parameters()}
    at = 0
    for layer in layers:
        n_out, n_in = layer.weight.shape
        units = at + torch.arange(n_out * (n_in + 1)).view(n_out, n_in + 1)
        place[names[id(layer.weight)]], place[names[id(layer.bias)]] = units[:, :-1].reshape(-1), units[:, -1]
        at += units.numel()
    return torch.cat([place[name] for name in flat.names]).to(layers[0].weight.device)


def inputs_and_jacobians(
    module: nn.Module, layers: list[nn.Linear], x: Tensor
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Inputs with a 1 `[n, in + 1]` and logit Jacobians `[n, C, out]` of each layer, and probabilities `[n, C]`."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        seen[id(layer)] = given[0].detach(), out

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.enable_grad():
            logits = module(x)
            outs = [seen[id(layer)][1] for layer in layers]
            per_class = [
                torch.autograd.grad(logits[:, c].sum(), outs, retain_graph=True) for c in range(logits.shape[1])
            ]
    finally:
        for handle in handles:
            handle.remove()
    one = torch.ones_like(x[:, :1].reshape(len(x), -1)[:, :1])
    inputs = [torch.cat([seen[id(layer)][0], one], 1) for layer in layers]
    jacobians = [torch.stack([g[i] for g in per_class], 1).detach() for i in range(len(layers))]
    return inputs, jacobians, torch.softmax(logits.detach(), 1)
