"""Compiled blocks of steps are the same steps. Slow: the compiler takes its time."""

import warnings

import pytest
import torch

import neurosde as nsde
from neurosde.errors import DataError, ShapeError
from neurosde.noise import BrownianPath, FreshNoise, StepNoise
from neurosde.solve import GeneralShARK, Heun, PIController, ReversibleHeun, SlowRK, SPaRK, compiling


class Network(nsde.SDE):
    def __init__(self, sde_type="ito"):
        super().__init__()
        self.sde_type = sde_type
        generator = torch.Generator().manual_seed(0)
        self.A = torch.nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64))

    def drift(self, t, y):
        return torch.tanh(y @ self.A) * torch.cos(t)

    def diffusion(self, t, y):
        return 0.2 * torch.sigmoid(y)


class Unfriendly(Network):
    """Decides by the data, which a full graph cannot."""

    def drift(self, t, y):
        return -y if float(y.detach().sum()) > 0 else y


@pytest.fixture(autouse=True, scope="module")
def the_compiler_is_there():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import warns of its own future
        import torch._dynamo
        import torch._inductor.compile_fx  # noqa: F401


@pytest.mark.slow
@pytest.mark.parametrize("sde_type", ["ito", "stratonovich"])
def test_compiled_steps_are_the_steps(sde_type):
    sde = Network(sde_type)
    path = BrownianPath(0.0, 1.0, (5, 3), seed=0, dtype=torch.float64)
    results = []
    for mode in ("off", "chunk"):
        sde.zero_grad()
        start = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3).requires_grad_()
        solution = nsde.solve(sde, start, [0.0, 0.37, 1.0], dt=0.03, noise=path, compile=mode)
        solution.ys.sum().backward()
        results.append((solution.ys.detach(), start.grad, sde.A.grad.clone()))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


FORMS = {"loop": {}, "blocks": {"ts": torch.linspace(0, 1, 21)}, "training": {"gradient": "backprop"}}
FORMS["checkpoint"] = {"gradient": "checkpoint"}
FORMS["undone"] = {"gradient": "reversible"}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_other_batches_horizons_and_steps_need_no_more_compiling(form):
    options = dict(FORMS[form])
    ts = options.pop("ts", torch.tensor([0.0, 1.0]))
    sde = Network("stratonovich" if form == "undone" else "ito")
    counts = []
    for n, dt, horizon in ((8, 0.02, 1.0), (16, 0.02, 1.0), (24, 0.015, 2.0), (33, 0.005, 0.7)):
        with torch.set_grad_enabled("gradient" in options):
            start = torch.zeros(n, 3, dtype=torch.float64)
            solution = nsde.solve(sde, start, horizon * ts, dt=dt, compile="chunk", **options)
        if "gradient" in options:
            solution.ys.sum().backward()
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts == counts[:1] * len(counts)


@pytest.mark.slow
def test_the_first_block_of_training_needs_no_program_of_its_own():
    """Two programs, for long blocks and what remains; and no gradient where the fields have none."""

    class Other(Network):
        pass

    class Idle(Other):
        def drift(self, t, y):
            return -y

    increments = 0.1 * torch.randn(50, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y0, results = torch.ones(4, 3, dtype=torch.float64), []
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for mode in ("off", "chunk"):
        sde = Other()
        ys = nsde.solve(sde, y0, [0.0, 1.0], dt=0.02, noise=increments, compile=mode).ys
        ys.square().sum().backward()
        results.append((ys.detach(), sde.A.grad))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 2
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    assert y0.grad is None
    assert not y0.requires_grad
    idle = nsde.solve(Idle(), y0, [0.0, 1.0], dt=0.02, noise=increments, compile="chunk")
    assert not idle.ys.requires_grad


@pytest.mark.slow
def test_the_loop_of_inference_takes_the_same_steps():
    """Requested times, running costs, own times, remainders, and what a method carries."""
    sde, y0 = Network("stratonovich"), torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)
    cost = nsde.RunningCost(lambda t, y: y.square().sum(-1), lambda t, y: y)
    own = torch.linspace(0, 1, 3, dtype=torch.float64) * torch.linspace(0.5, 1, 5).unsqueeze(-1)
    for more in (
        {"ts": [0.0, 0.37, 1.0], "stepper": ReversibleHeun()},
        {"ts": [0.0, 0.5, 0.6, 1.0], "running": (cost,)},
        {"ts": own, "running": (cost,), "dt": torch.linspace(0.01, 0.02, 5, dtype=torch.float64)},
    ):
        with torch.no_grad():
            off, on = (
                nsde.solve(sde, y0, **{"dt": 0.013, **more}, seed=0, compile=c) for c in ("off", "chunk")
            )
        assert torch.allclose(off.ys, on.ys, rtol=1e-11, atol=1e-12)
        for name in off.running:
            assert torch.allclose(off.running[name], on.running[name], rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_requested_times_beside_the_end_of_a_section_lose_no_step():
    """A loop stops at every requested time; the block from there on ends with the noise that is drawn."""
    sde, n, steps = Network(), 512, 600
    y0 = torch.linspace(-1, 1, 3 * n, dtype=torch.float64).view(n, 3)
    for stops in ((335, 338), (1, 338), (339, 341)):  # a section has 340 steps here
        ts = torch.tensor([0, *stops, steps], dtype=torch.float64) / steps
        with torch.no_grad():
            off, on = (
                nsde.solve(
                    sde, y0, ts, dt=1 / steps, noise=StepNoise((n, 3), seed=0, dtype=y0.dtype), compile=c
                )
                for c in ("off", "chunk")
            )
        assert torch.allclose(off.ys, on.ys, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_a_series_that_blows_up_leaves_the_others_as_they_are():
    class Cubic(nsde.SDE):
        def drift(self, t, y):
            return y**3

        def diffusion(self, t, y):
            return 0.1 * torch.ones_like(y)

    y0 = torch.tensor([[0.1], [50.0], [-0.2]], dtype=torch.float64)
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="1 of 3 series failed; series 1"):
        off, on = (
            nsde.solve(Cubic(), y0, [0.0, 0.5, 1.0], dt=0.01, seed=0, compile=c) for c in ("off", "chunk")
        )
    assert off.status.tolist() == on.status.tolist() == [0, 1, 0]
    assert torch.allclose(off.ys, on.ys, rtol=1e-11, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("ts", [[0.0, 1.0], [0.0, 0.333, 0.666, 1.0]])
def test_steps_are_undone_by_compiled_blocks_as_well(ts):
    sde, results = Network("stratonovich"), []
    for mode in ("off", "chunk"):
        sde.zero_grad()
        start = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3).requires_grad_()
        solution = nsde.solve(sde, start, ts, dt=0.013, seed=0, compile=mode, gradient="reversible")
        solution.ys.square().sum().backward()
        results.append((solution.ys.detach(), start.grad, sde.A.grad.clone()))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["adjoint", "reversible"])
@pytest.mark.parametrize("late", [False, True], ids=["from the start", "on the way back alone"])
def test_the_way_back_meets_the_noise_of_the_way_there(gradient, late, monkeypatch):
    """Fresh noise has other normals when compiled: both ways draw alike, whichever of them is compiled."""
    monkeypatch.setattr(compiling, "PATIENCE", 1e9)

    def slope(gradient, mode):
        sde, noise = Network("stratonovich"), FreshNoise((8, 3), seed=0, dtype=torch.float64)
        start = torch.linspace(-1, 1, 24, dtype=torch.float64).view(8, 3)
        stepper = Heun() if gradient == "adjoint" else ReversibleHeun()
        more = {"noise": noise, "compile": mode, "stepper": stepper}
        solution = nsde.solve(sde, start, [0.0, 1.0], dt=1 / 300, gradient=gradient, **more)
        if late:
            for kind in list(compiling._spent):
                monkeypatch.setitem(compiling._spent, kind, 1e12 if "undone" in kind else 0.0)
        solution.ys[:, -1].square().sum().backward()
        return sde.A.grad

    if late:
        slope(gradient, "auto")  # the way back is now known, and its time set beyond all patience
    mine = slope(gradient, "auto" if late else "chunk")
    assert torch.allclose(mine, slope("backprop", "off" if late else "chunk"), rtol=1e-5)


@pytest.mark.slow
def test_the_quick_tangent_is_within_a_few_digits_of_torchs():
    from neurosde.solve.tangent import QuickTangent

    x = torch.cat((torch.linspace(-12, 12, 400_001), torch.logspace(-30, 1, 10_000)))
    x = torch.cat((x, torch.tensor([0.0, torch.inf, -torch.inf, torch.nan])))
    quick = torch.compile(torch.tanh, options={"post_grad_custom_pre_pass": QuickTangent()})(x)
    exact = torch.tanh(x.double())
    error = ((quick - exact) / exact.abs().clamp(min=1e-30))[:-4].abs().max()
    assert 1e-8 < error < 4e-7  # another function than torch's, whose error is half of the last place
    assert quick[:-1].abs().max() <= 1
    assert quick[-4] == 0
    assert (quick[-3:-1].abs() > 1 - 4e-7).all()
    assert quick[-1].isnan()


@pytest.mark.slow
def test_what_does_not_compile_is_stepped_as_it_is():
    start = torch.ones(2, 3, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="this SDE did not compile"):
        first = nsde.solve(Unfriendly(), start, [0.0, 1.0], dt=0.1, seed=0, compile="chunk").ys
    second = nsde.solve(
        Unfriendly(), start, [0.0, 1.0], dt=0.1, seed=0, compile="chunk"
    ).ys  # and is not tried again
    assert torch.allclose(first, second)


@pytest.mark.slow
def test_a_loop_that_does_not_compile_is_taken_as_it_is():
    class Other(Unfriendly):
        pass

    start, noise = torch.ones(2, 3, dtype=torch.float64), StepNoise((2, 3), seed=0, dtype=torch.float64)
    with torch.no_grad():
        off = nsde.solve(Other(), start, [0.0, 1.0], dt=0.05, noise=noise, compile="off").ys
        with pytest.warns(RuntimeWarning, match="this SDE did not compile"):
            on = nsde.solve(Other(), start, [0.0, 1.0], dt=0.05, noise=noise, compile="chunk").ys
    assert torch.allclose(off, on, rtol=1e-12)


class Watched(nsde.SDE):
    """Counts the calls that are no part of a program."""

    def __init__(self, columns=3):
        super().__init__()
        self.columns, self.calls = columns, []

    def drift(self, t, y):
        if not torch.compiler.is_compiling():
            self.calls.append(1)
        return -y[:, : self.columns]

    def diffusion(self, t, y):
        return 0.2 * torch.ones_like(y)


@pytest.mark.slow
def test_a_compiled_loop_looks_at_the_fields_itself(monkeypatch):
    """Once there is a program the fields are not called beside it; other fields are looked at as well."""
    monkeypatch.setattr(compiling, "_failed", set())

    def solve(sde):
        with torch.no_grad():
            return nsde.solve(sde, torch.ones(4, 3), [0.0, 1.0], dt=0.05, compile="chunk")

    first, second, narrow = Watched(), Watched(), Watched(columns=2)
    solve(first)
    assert len(first.calls) == 1
    solve(second)
    assert not second.calls
    with pytest.raises(ShapeError, match=r"sde: drift: expected \(series, state\) = \(4, 3\), got \(4, 2\)"):
        solve(narrow)
    assert not compiling._failed
    third = Watched()
    solve(third)
    assert not third.calls
    with torch.no_grad():  # too few steps for the loop
        nsde.solve(third, torch.ones(4, 3), [0.0, 1.0], dt=0.2, compile="chunk")
    assert len(third.calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize("levy", ["none", "space-time"])
def test_a_series_alone_is_that_series_in_a_batch_for_a_loop_that_draws(levy):
    """Bit for bit: the compiler takes the same functions for the ends of a batch as for its middle."""
    sde, series = Watched(), torch.arange(37) * 5 + 1
    for dtype in (torch.float32, torch.float64):
        results = []
        for rows in (slice(None), slice(3, 4), slice(20, 37)):
            noise = StepNoise((len(series[rows]), 3), seed=2, levy=levy, series=series[rows], dtype=dtype)
            y0 = torch.linspace(-1, 1, 111, dtype=dtype).view(37, 3)[rows]
            with torch.no_grad():
                results.append(nsde.solve(sde, y0, [0.0, 1.0], dt=0.01, noise=noise, compile="chunk").ys)
        whole, one, some = results
        assert torch.equal(one, whole[3:4])
        assert torch.equal(some, whole[20:])


def test_auto_waits_until_it_pays(monkeypatch):
    calls = []
    monkeypatch.setattr(compiling, "_program", lambda kind, f: lambda *a: calls.append(1) or f(*a))
    monkeypatch.setattr(compiling, "_spent", {})
    monkeypatch.setattr(compiling, "_failed", set())
    monkeypatch.setattr(nsde.noise.BrownianPath, "compiled", lambda self: self)
    sde, start = Network("stratonovich"), torch.zeros(2, 3, dtype=torch.float64)

    def solve(mode):
        return nsde.solve(sde, start, [0.0, 1.0], dt=0.1, seed=0, stepper=Heun(), compile=mode)

    solve("auto")
    assert not calls
    monkeypatch.setattr(compiling, "PATIENCE", 0.0)
    solve("off")
    assert not calls
    solve("auto")
    assert calls
    with pytest.raises(DataError, match="compile: expected one of auto, chunk, off"):
        solve("always")


@pytest.mark.slow
def test_weights_of_one_method_are_no_variables_of_the_next():
    """Methods that differ in their tables alone, one after the other: a warning would fail this."""
    sde, y0 = Network("stratonovich"), torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)
    for stepper in (SlowRK(), SPaRK(), GeneralShARK()):
        with torch.no_grad():
            off, on = (
                nsde.solve(sde, y0, [0.0, 1.0], dt=0.02, seed=0, stepper=stepper, compile=c).ys
                for c in ("off", "chunk")
            )
        assert torch.allclose(off, on, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("whole_batch", [False, True], ids=["own clocks", "one clock"])
def test_adaptive_steps_are_the_same_compiled(whole_batch):
    """The same steps and states, and the same programs whatever the batch, the tolerance and the times."""
    sde, counts = Network("stratonovich"), []
    for n, tolerance, ts in (
        (5, 1e-2, [0.0, 0.3, 1.0]), (7, 3e-2, [0.0, 0.2, 0.7, 1.5]), (6, 1e-2, [0.0, 1.0]),
        (11, 2e-2, [0.0, 0.1, 0.2, 0.4, 0.5]),
    ):  # fmt: skip
        y0 = torch.linspace(-1, 1, 3 * n, dtype=torch.float64).view(n, 3)
        rule = PIController(tolerance, tolerance, whole_batch=whole_batch)
        with torch.no_grad():
            off, on = (
                nsde.solve(sde, y0, ts, seed=0, controller=rule, stepper=Heun(), compile=mode)
                for mode in ("off", "chunk")
            )
        assert torch.allclose(off.ys, on.ys, rtol=1e-10, atol=1e-10)
        assert torch.equal(off.stats["accepted"], on.stats["accepted"])
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    # what goes down to a requested time is compiled once more when the batch first changes
    assert counts[1] <= counts[0] + (0 if whole_batch else 2)
    # and where no time lies inside, the search is one program
    assert counts[2] <= counts[1] + 1
    assert counts[3] == counts[2]
