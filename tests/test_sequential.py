"""Networks trained one after another, against a plain loop of torch.optim.SGD."""

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from bench import gradients, launch, networks, sequential, subsets
from bench.datasets import Architecture, Data, Dataset, Recipe, Setting
from bench.errors import BenchError
from bench.files import Files
from bench.influence import Influence
from bench.launch import Request
from bench.models import Flat, build, initialise
from bench.outputs import margins
from bench.progress import Progress
from bench.recipes import Augmentation
from bench.recorded import Recorded
from bench.sequential import Network
from bench.subsets import Plan
from bench.train import Stopped, Trainer, batch_order

CPU = torch.device("cpu")
TINY = {
    "resnet9": Architecture("resnet9", (4, 6, 8, 6)),
    "resnet18": Architecture("resnet18", (4, 6, 8, 8)),
    "airbench": Architecture("airbench", (6, 8, 8)),
}
ALL = Augmentation("alternating", 2, 3)


def pictures(n_train: int = 60, n_test: int = 30, shape: tuple[int, ...] = (3, 12, 12)) -> Data:
    """Three classes of noisy images: a bar that lies, one that stands, and none. No augmentation changes a class."""
    rng = np.random.default_rng(0)
    n = n_train + n_test
    x, y = rng.normal(0, 0.3, (n, 3, 12, 12)).astype(np.float32), rng.integers(0, 3, n)
    for image, label in zip(x, y, strict=True):
        at = int(rng.integers(3, 7))
        if label == 0:
            image[:, at : at + 2] += 1.5
        elif label == 1:
            image[:, :, at : at + 2] += 1.5
    x = x.reshape(n, *shape)
    return Data(x[:n_train], y[:n_train], x[n_train:], y[n_train:], 3)


def recipe(name: str, **changes: Any) -> Recipe:
    plain = Recipe(TINY[name], epochs=3, batch_size=16, lr=0.1, weight_decay=1e-2, schedule="triangular")
    return replace(plain, **changes)


def rows(count: int, alpha: float = 0.5) -> tuple[list[NDArray[np.int64]], list[np.random.SeedSequence]]:
    return (
        [subsets.kept(0, row, 60, alpha) for row in range(count)],
        [subsets.model_seed(0, row) for row in range(count)],
    )


def plain_loop(
    made: Recipe,
    data: Data,
    subset: NDArray[np.int64],
    seed: np.random.SeedSequence,
    step: Callable[[nn.Module, Sequence[Tensor], Tensor, Tensor, float], None] | None = None,
) -> Tensor:
    """What everyone writes, without augmentation; `step` replaces torch.optim.SGD where it is given."""
    for_init, for_batches = seed.spawn(2)
    module = build(made.architecture, data.train_x.shape[1:], data.n_classes)
    initialise(module, int(for_init.generate_state(1, np.uint64)[0] >> 1))
    x, y = torch.from_numpy(data.train_x[subset]), torch.from_numpy(data.train_y[subset])
    for layer in networks.whitenings(module):
        layer.fit(x)
    shifts = [m.bias for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    others = [p for p in module.parameters() if not any(p is s for s in shifts)]
    optimiser = torch.optim.SGD(
        [
            {"params": shifts, "weight_decay": made.weight_decay / made.norm_bias_lr},
            {"params": others, "weight_decay": made.weight_decay},
        ],
        lr=made.lr,
        momentum=made.momentum,
        nesterov=made.optimiser == "nesterov",
    )
    module.train()
    order = batch_order(len(subset), made, np.random.default_rng(for_batches))
    for at, batch in enumerate(order):
        rate = made.rate(at, len(order))
        for group, factor in zip(optimiser.param_groups, (made.norm_bias_lr, 1), strict=True):
            group["lr"] = rate * factor
        if step is not None:
            step(module, shifts, x[batch], y[batch], rate)
            continue
        optimiser.zero_grad()
        logp = module(x[batch]).log_softmax(1)
        target = torch.full_like(logp, made.label_smoothing / data.n_classes)
        target[range(len(batch)), y[batch]] += 1 - made.label_smoothing
        (-(target * logp).sum(1).mean()).backward()
        optimiser.step()
    return Flat(module.eval()).vector()


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    "changes",
    [{}, {"optimiser": "nesterov", "label_smoothing": 0.2, "norm_bias_lr": 4.0}],
    ids=["plain", "all"],
)
def test_equal_to_torch_sgd(name: str, changes: dict[str, Any]) -> None:
    """At a small learning rate: at a large one, a rounding that crosses a ReLU's kink grows to 1e-2 in nine steps."""
    made, data = recipe(name, lr=0.02, **changes), pictures()
    (subset, _), (seed, _) = rows(2)
    found = Trainer(made, data, CPU).train([subset], [seed])[0]
    torch.testing.assert_close(found, plain_loop(made, data, subset, seed), atol=1e-5, rtol=1e-5)


def test_published_hyperparameters_are_translated() -> None:
    """airbench94 states its own for a summed loss, decoupled from momentum and from each other.

    There, the learning rate per 1,024 examples is divided by 1 + 1/(1 − momentum), and the weight decay is a share per
    1,024 examples. So 11.5, 0.0153 and a momentum of 0.85 are lr = 11.5 / (1 + 1/0.15) = 1.5 for the mean loss of 1,024
    examples and a weight decay of 0.0153 / 11.5. Its steps are written out here, for smaller batches.
    """
    data, momentum, batch, published_lr, published_decay = pictures(), 0.85, 16, 11.5, 0.0153
    made = recipe(
        "airbench",
        batch_size=batch,
        lr=1.5 * batch / 1024,
        momentum=momentum,
        weight_decay=published_decay / published_lr,
        optimiser="nesterov",
        label_smoothing=0.2,
        norm_bias_lr=64.0,
    )
    kilostep = 1024 * (1 + 1 / (1 - momentum))
    summed_lr = published_lr / kilostep
    decay = published_decay * batch / kilostep
    buffers: dict[int, Tensor] = {}

    def step(module: nn.Module, shifts: Sequence[Tensor], x: Tensor, y: Tensor, rate: float) -> None:
        module.zero_grad()
        F.cross_entropy(module(x), y, label_smoothing=0.2, reduction="none").sum().backward()
        now = summed_lr * rate / made.lr
        with torch.no_grad():
            for p in module.parameters():
                fast = any(p is s for s in shifts)
                lr, full = (now * 64, summed_lr * 64) if fast else (now, summed_lr)
                assert p.grad is not None
                slope = p.grad + decay / full * p
                buffers[id(p)] = momentum * buffers.get(id(p), torch.zeros(())) + slope
                p.sub_(lr * (slope + momentum * buffers[id(p)]))

    (subset,), (seed,) = rows(1)
    found = Trainer(made, data, CPU).train([subset], [seed])[0]
    torch.testing.assert_close(found, plain_loop(made, data, subset, seed, step), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_learns(name: str) -> None:
    made = recipe(
        name, epochs=20, optimiser="nesterov", label_smoothing=0.1, augmentation=ALL, mirror=True, weight_decay=1e-3
    )
    data = pictures(120, 60)
    trainer = Trainer(made, data, CPU)
    assert not made.stacked
    state = trainer.train([np.arange(120)], [subsets.checkpoint_seed(0, 0)])
    x, y = trainer.inputs("test")
    logits = trainer.logits(state, x)[0]
    assert (logits.argmax(1) == y).float().mean() > 0.8
    untrained = Flat(build(made.architecture, (3, 12, 12), 3)).vector()
    assert F.cross_entropy(logits, y) < F.cross_entropy(trainer.logits(untrained[None], x)[0], y) - 0.2


def test_row_depends_on_itself_alone() -> None:
    """Not on the models before it, nor on torch's own generator, nor on threads; and it can be had again."""
    made, data = recipe("airbench", augmentation=ALL, lookahead=2), pictures()
    trainer, (chosen, seeds) = Trainer(made, data, CPU), rows(4)
    together = trainer.train(chosen, seeds)
    torch.manual_seed(99)
    alone = [Trainer(made, data, CPU).train([chosen[i]], [seeds[i]])[0] for i in (3, 0)]
    assert torch.equal(together[[3, 0]], torch.stack(alone))
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda i: trainer.train([chosen[i]], [seeds[i]])[0], range(4)))
    torch.testing.assert_close(together, torch.stack(at_once), atol=1e-5, rtol=1e-5)
    assert (together - together[0]).abs().amax(1)[1:].min() > 0.01


@contextmanager
def _untouched() -> Iterator[None]:
    def state() -> list[Any]:
        cudnn = torch.backends.cudnn
        return [
            torch.get_rng_state().tolist(),
            repr(np.random.get_state()),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
        ]

    before = state()
    yield
    assert state() == before


def test_global_state_is_left_alone() -> None:
    trainer = Trainer(recipe("airbench", epochs=1, augmentation=ALL, mirror=True), pictures(), CPU)
    with _untouched():
        state = trainer.train(*rows(1))
        trainer.logits(state, trainer.inputs("test")[0])
    trainer.stop.set()
    with _untouched(), pytest.raises(Stopped):
        trainer.train(*rows(1))


def test_ground_truth_of_a_network(tmp_path: Path, quiet: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way to a store, in threads: its margins are those of each model made by itself."""
    made, data = recipe("airbench", epochs=1, augmentation=ALL, mirror=True), pictures()

    class Pictures(Dataset):
        models: ClassVar = {"airbench": made}

        def load(self, files: Files) -> Data:  # noqa: ARG002
            return data

    request = Request(Setting("pictures", "airbench", Pictures(), {}, made), data, Plan(12, 2), device="cpu")
    monkeypatch.setattr(launch, "ALONE_ROWS", 4)
    meta = launch.make(request, tmp_path / "truth", quiet)
    assert meta is not None
    assert len(meta.blocks) > 2
    stored = np.load(tmp_path / "truth" / "margins.npy")
    trainer = Trainer(made, data, CPU)
    x, y = trainer.inputs("test")
    for row in (0, meta.subset_of_row.index(5)):
        subset = subsets.kept(0, meta.subset_of_row[row], 60, 0.5)
        state = trainer.train([subset], [subsets.model_seed(0, row)])
        alone = margins(trainer.logits(state, x), y)[0]
        np.testing.assert_allclose(stored[row], alone, atol=1e-3)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8])
def test_steps_follow_the_subset(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 examples are less than a batch, 30 no whole number of batches, 48 are three."""
    steps: list[int] = []
    rates: list[float] = []
    plain = torch.optim.SGD.step

    def counted(self: torch.optim.SGD, *args: Any) -> Any:
        steps.append(1)
        rates.append(self.param_groups[0]["lr"])
        return plain(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", counted)
    made = recipe("resnet9")
    state = Trainer(made, pictures(), CPU).train(*rows(1, alpha=alpha))
    assert state.isfinite().all()
    n = round(60 * alpha)
    assert len(steps) == made.steps(n) == max(1, 3 * n // min(16, n))
    np.testing.assert_allclose(rates, [made.rate(i, len(steps)) for i in range(len(steps))])


def test_examples_left_out_do_not_matter() -> None:
    """Not even to the whitening filters."""
    made, data = recipe("airbench", augmentation=ALL), pictures()
    (subset,), seeds = rows(1)
    out = np.setdiff1d(np.arange(60), subset)
    x, y = data.train_x.copy(), data.train_y.copy()
    x[out], y[out] = 1e6, (y[out] + 1) % 3
    a = Trainer(made, data, CPU).train([subset], seeds)
    b = Trainer(made, replace(data, train_x=x, train_y=y), CPU).train([subset], seeds)
    assert torch.equal(a, b)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_loss_is_smoothed_cross_entropy(smoothing: float) -> None:
    network = Network(TINY["resnet9"], (3, 12, 12), 3, smoothing, CPU, compiled=False)
    x, y = torch.randn(8, 3, 12, 12), torch.arange(8) % 3
    logp = network.module(x).log_softmax(1)
    expected = -(1 - smoothing) * logp[range(8), y].mean() - smoothing * logp.mean()
    torch.testing.assert_close(network.loss(x, y), expected)
    torch.testing.assert_close(network.loss(x, y), F.cross_entropy(network.module(x), y, label_smoothing=smoothing))


def test_lookahead_ends_on_the_slow_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """By replay: the fast weights before each move, averaged as they should be, are the model."""
    seen: list[tuple[list[Tensor], float]] = []
    plain = sequential._look_ahead

    def watched(slow: list[Tensor], fast: list[Tensor], decay: float) -> None:
        seen.append(([t.detach().clone() for t in fast], decay))
        plain(slow, fast, decay)

    monkeypatch.setattr(sequential, "_look_ahead", watched)
    made, data = recipe("airbench", lookahead=3), pictures()
    (subset,), (seed,) = rows(1)
    found = Trainer(made, data, CPU).train([subset], [seed])[0]
    steps = made.steps(30)
    assert steps == 5
    np.testing.assert_allclose([decay for _, decay in seen], [0.95**3 * (3 / 5) ** 3, 1.0])
    module = build(made.architecture, (3, 12, 12), 3)
    initialise(module, int(seed.spawn(1)[0].generate_state(1, np.uint64)[0] >> 1))
    networks.whitenings(module)[0].fit(torch.from_numpy(data.train_x[subset]))
    decay = seen[0][1]
    slow = [decay * a + (1 - decay) * b for a, b in zip(Flat(module).tensors(), seen[0][0], strict=True)]
    torch.testing.assert_close(found, torch.cat([t.reshape(-1) for t in slow]).detach(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("mirror", [False, True])
def test_logits_are_those_of_the_module(mirror: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential, "_PIXELS", 7 * 144)
    data = pictures()
    trainer = Trainer(recipe("airbench", mirror=mirror), data, CPU)
    states = trainer.train(*rows(2))
    x, _ = trainer.inputs("test")
    found = trainer.logits(states, x)
    assert found.shape == (2, 30, 3)
    for state, mine in zip(states, found, strict=True):
        module = Flat(build(TINY["airbench"], (3, 12, 12), 3)).load(state)
        with torch.no_grad():
            expected = (module(x) + module(x.flip(3))) / 2 if mirror else module(x)
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)


def test_stacked_architectures_can_be_augmented() -> None:
    """Flat inputs that a small network sees as images: what the same images give, as images."""
    flat = Recipe(
        Architecture("cnn", (4,), (3, 12, 12)), 3, 16, 0.05, augmentation=ALL, mirror=True, schedule="triangular"
    )
    spatial = replace(flat, architecture=Architecture("cnn", (4,)))
    assert not flat.stacked
    found = []
    for made, shape in ((flat, (432,)), (spatial, (3, 12, 12))):
        trainer = Trainer(made, pictures(shape=shape), CPU)
        state = trainer.train(*rows(2))
        x, y = trainer.inputs("test")
        found.append(margins(trainer.logits(state, x), y))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


class NoWaiting(TorchDispatchMode):
    """Fails where the host would wait for a GPU: operations that need a value, or a shape made of values."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name().split("::")[1].split(".")[0]
        assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "_unique2"), name
        if name in ("index", "index_put", "index_put_"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "a mask as an index needs its count"
        if name == "_to_copy":
            assert "device" not in (kwargs or {}), "a copy between devices"
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, watched = sequential.Sequential._steps, []

    def steps(self: sequential.Sequential, *args: Any) -> None:
        with NoWaiting():
            plain(self, *args)
        watched.append(True)

    monkeypatch.setattr(sequential.Sequential, "_steps", steps)
    for name in TINY:
        Trainer(recipe(name, augmentation=ALL, norm_bias_lr=4.0, lookahead=2), pictures(), CPU).train(*rows(1))
    assert len(watched) == 3
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        torch.ones(()).item()


@pytest.mark.parametrize("name", TINY)
def test_what_methods_differentiate_is_what_is_judged(name: str) -> None:
    """Mean over image and mirror image, running statistics fixed: gradients in the parameters alone, and influence."""
    made, data = recipe(name, mirror=True, label_smoothing=0.2, weight_decay=1e-3), pictures(24, 8)
    trainer = Trainer(made, data, CPU)
    state = trainer.train([np.arange(24)], [subsets.checkpoint_seed(0, 0)])[0]
    x, y = trainer.inputs("test")
    flat = trainer.flat()
    judged = trainer.measured(state[None], Recorded())["margins"][0]
    np.testing.assert_allclose(margins(flat(state, x), y).detach().numpy(), judged, atol=1e-5)
    gradient = gradients.stacked(flat, state, x, y, "margin")
    assert gradient.shape == (8, flat.n_parameters)
    step = 1e-2 * gradient[0] / gradient[0].norm()
    moved = [state + sign * torch.nn.functional.pad(step, (0, len(state) - len(step))) for sign in (1, -1)]
    ahead, back = (float(margins(flat(m, x[:1]), y[:1]).detach()) for m in moved)
    assert (ahead - back) / 2e-2 == pytest.approx(float(gradient[0].norm()), rel=0.05)
    one = Influence(trainer.flat(), state, trainer.inputs("train"), (x, y), 1e-3, "logsumexp", made.label_smoothing)
    assert one.matrix.shape == (flat.n_parameters, flat.n_parameters)
    assert one.scores(one.mean_diagonal).isfinite().all()


def test_failing_compiler_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", broken)
    network = Network(TINY["airbench"], (3, 12, 12), 3, 0.1, CPU, compiled=True)
    x, y = torch.randn(8, 3, 12, 12), torch.arange(8) % 3
    with pytest.raises(
        BenchError, match=r"do not compile here \(RuntimeError: no compiler here\): set BENCH_COMPILE=0"
    ):
        network.compile(x, y)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_compiled_loss_is_the_loss(name: str) -> None:
    """With the gradients and running statistics; the same code serves the next model."""
    plain, compiled = (Network(TINY[name], (3, 12, 12), 3, 0.1, CPU, compiled=c) for c in (False, True))
    x, y = torch.randn(8, 3, 12, 12), torch.arange(8) % 3
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        compiled.compile(x, y)
    for seed in range(2):
        for network in (plain, compiled):
            network.module.train()
            network.start(seed)
            network.module.zero_grad()
            with torch.compiler.set_stance("fail_on_recompile" if network is compiled and seed else "default"):
                network.loss(x, y).backward()
        torch.testing.assert_close(compiled.flat.vector(), plain.flat.vector(), atol=1e-5, rtol=1e-4)
        for a, b in zip(compiled.module.parameters(), plain.module.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-3)


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sequential.COMPILE, "0")


@pytest.mark.gpu
@gpu
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", TINY)
def test_cuda_repeats_itself_and_never_waits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sequential.Sequential._steps

    def steps(self: sequential.Sequential, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            plain(self, *args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(sequential.Sequential, "_steps", steps)
    trainer = Trainer(recipe(name, augmentation=ALL, norm_bias_lr=4.0, lookahead=2), pictures(), torch.device("cuda"))
    before = torch.cuda.get_rng_state()
    with _untouched():
        first, second = (trainer.train(*rows(2)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.cuda.get_rng_state())


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("compiled", ["0", "1"])
@pytest.mark.parametrize("name", TINY)
def test_cuda_learns_what_the_cpu_learns(name: str, compiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same draws; bfloat16 and other kernels part the ways, so models agree on most images, not in numbers."""
    monkeypatch.setenv(sequential.COMPILE, compiled)
    made = recipe(name, epochs=12, augmentation=ALL, mirror=True, weight_decay=1e-3)
    data, everything, seeds = pictures(120, 60), [np.arange(120)], [subsets.checkpoint_seed(0, 0)]
    right = {}
    for device in (CPU, torch.device("cuda")):
        trainer = Trainer(made, data, device)
        x, y = trainer.inputs("test")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # compiling must work
            state = trainer.train(everything, seeds)
        right[device.type] = (trainer.logits(state, x)[0].argmax(1) == y).float().mean().item()
    assert right["cuda"] > 0.8
    assert abs(right["cuda"] - right["cpu"]) < 0.15


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("name", TINY)
def test_cuda_evaluates_as_the_cpu_does(name: str) -> None:
    made, data = recipe(name, mirror=True), pictures()
    state = Trainer(made, data, CPU).train(*rows(2))
    found = [
        Trainer(made, data, device).logits(state.to(device), torch.from_numpy(data.test_x).to(device)).cpu()
        for device in (CPU, torch.device("cuda"))
    ]
    torch.testing.assert_close(found[0], found[1], atol=2e-2, rtol=2e-2)  # TensorFloat-32


@pytest.mark.gpu
@gpu
def test_cuda_network_is_channels_last_and_shared() -> None:
    device = torch.device("cuda")
    key: tuple[Any, ...] = (TINY["resnet9"], (3, 12, 12), 3, 0.0, device, False)
    network = sequential._shared(*key)
    assert network is sequential._shared(*key)
    weights = [p for p in network.module.parameters() if p.dim() == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    vector = torch.randn(len(network.flat.vector()), device=device)
    network.flat.load(vector)
    assert torch.equal(network.flat.vector(), vector)


def test_stop_is_seen_within_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(recipe("resnet9", epochs=50), pictures(), CPU)
    plain, steps = torch.optim.SGD.step, []

    def stopping(self: torch.optim.SGD, *args: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            trainer.stop.set()
        return plain(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", stopping)
    assert isinstance(trainer.stop, threading.Event)
    with pytest.raises(Stopped):
        trainer.train(*rows(1))
    assert len(steps) == 3
