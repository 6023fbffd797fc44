"""What a linear datamodel is judged by: from exact counts, in float64, with none of the solver's numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.gram import Float, Moments, centre_cross, gram_product


@dataclass(frozen=True)
class State:
    """The fit's gradient, float64 `[n, T]`, and the quadratic terms of its objective, `[T]` each."""

    gradient: Float  # Xᵀ(y − Xw)/m, centred
    wc: Float  # wᵀXᵀy/m
    wgw: Float  # ‖Xw‖²/m
    yy: Float  # ‖y‖²/m

    @property
    def rr(self) -> Float:
        """‖y − Xw‖²/m."""
        return np.maximum(self.yy - 2 * self.wc + self.wgw, 0)


Certificate = Callable[[State, Float, Float], tuple[Float, Float]]


@dataclass(frozen=True)
class Verdict:
    """What is true of weights, `[T]` each.

    Attributes:
        gap: bound on the distance to the least objective, relative to ½‖y − ȳ‖²/m; 0 where nothing varies.
        kkt: greatest violation of the optimality conditions, relative to `lam_max`; 0 where nothing varies.
        lam_max: greatest |Xᵀy|/m.
        constant: targets that do not vary.
    """

    gap: Float
    kkt: Float
    lam_max: Float
    constant: NDArray[np.bool_]


def judge(every: Moments, W: Float, lam: Float, certificate: Certificate, threads: int = 1) -> Verdict:
    """Judge weights `[n, T]` (as they are returned, after rounding) at penalties `[T]`."""
    C, yy = centre_cross(every)
    GW = gram_product(every, W, threads)
    state = State(C - GW, np.einsum("nt,nt->t", W, C), np.einsum("nt,nt->t", W, GW), yy)
    gap, kkt = certificate(state, W, lam)
    lam_max = np.abs(C).max(0)
    # Where nothing varies, zero weights are exact and there is no scale to be relative to.
    flat = lam_max == 0
    gap = np.where(flat, 0.0, np.maximum(gap, 0.0) / np.where(flat, 1.0, 0.5 * yy))
    return Verdict(gap, np.where(flat, 0.0, kkt / np.where(flat, 1.0, lam_max)), lam_max, yy == 0)


def r_squared(loss: Float, null: Float, constant: NDArray[np.bool_]) -> Float:
    """1 − loss / null, `[T]`; NaN for constant targets, and where no margin is off the fitted rows' mean."""
    return 1 - np.divide(loss, null, out=np.full_like(loss, np.nan), where=(null > 0) & ~constant)


def lasso(state: State, W: Float, lam: Float) -> tuple[Float, Float]:
    """Absolute duality gap and KKT violation of the LASSO, `[T]` each.

    Dual objective at the scaled residual s·r, s = min(1, λ/‖Xᵀr/m‖∞): s·rᵀy/m − ½s²‖r‖²/m.
    """
    size = np.abs(state.gradient)
    largest = size.max(0)
    s = np.divide(lam, largest, out=np.ones_like(lam), where=largest > lam)
    primal = 0.5 * state.rr + lam * np.abs(W).sum(0)
    dual = s * (state.yy - state.wc) - 0.5 * s**2 * state.rr
    violation = np.where(W != 0, np.abs(state.gradient - lam * np.sign(W)), np.maximum(size - lam, 0))
    return primal - dual, violation.max(0)


def ridge(state: State, W: Float, lam: Float) -> tuple[Float, Float]:
    """The same of ridge: strong convexity bounds the suboptimality by ‖gradient‖²/(2λ)."""
    gradient = state.gradient - lam * W
    bound = np.divide((gradient**2).sum(0), 2 * lam, out=np.zeros_like(lam), where=lam > 0)
    return bound, np.abs(gradient).max(0)


def least_squares(curvature: float) -> Certificate:
    """The same of least squares, by the least eigenvalue of the Gram that is not zero."""

    def certificate(state: State, W: Float, lam: Float) -> tuple[Float, Float]:  # noqa: ARG001
        return (state.gradient**2).sum(0) / (2 * curvature), np.abs(state.gradient).max(0)

    return certificate
