"""What every stepper promises as data, and how it behaves in a solve."""

import math

import pytest
import torch

import neurosde as nsde
from neurosde.errors import DataError, SolveError
from neurosde.forms import GeometricSDE, LinearNoiseSDE, UnderdampedLangevin
from neurosde.noise import BrownianIncrement, BrownianPath
from neurosde.solve import (
    QUICSORT,
    SRA1,
    SRK,
    STEPPERS,
    ExponentialHeun,
    ExponentialShARK,
    Heun,
    LogODE,
    Midpoint,
    Milstein,
    PIController,
    ShARK,
    SPaRK,
    Step,
    capabilities,
)

PROMISED = {
    *("EulerMaruyama", "Milstein", "SRK", "EulerHeun", "Heun", "Midpoint", "ReversibleHeun", "LogODE"),
    *("SEA", "SRA1", "ShARK", "SPaRK", "GeneralShARK", "SlowRK", "ExponentialEuler"),
    *("LieSplitting", "LogEuler", "ShOULD", "QUICSORT"),
}
every_stepper = pytest.mark.parametrize("stepper", STEPPERS, ids=lambda s: type(s).__name__)


class Counted(GeometricSDE):
    """Diagonal noise with a linear part, in any calculus; counts what is asked of it."""

    def __init__(self, sde_type="ito", additive=False):
        super().__init__()
        self.sde_type, self.additive, self.calls = sde_type, additive, [0, 0]
        self.gain = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def relative_drift(self, t, y):
        self.calls[0] += 1
        return -1.3 + self.gain.to(y) * torch.cos(t) * torch.sin(y)

    def relative_diffusion(self, t, y):
        self.calls[1] += 1
        return (0.4 + 0.1 * torch.sin(t)) * (1 / y if self.additive else torch.ones_like(y))

    def decay(self, t):
        return torch.tensor([1.3], dtype=torch.float64)


class Well(torch.nn.Module):
    """Gradient of a potential that counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = [0, 0]
        self.gain = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, x):
        self.calls[0] += 1
        return x + self.gain.to(x) * torch.sin(2 * x)


class Relaxing(nsde.LinearSDE):
    """A linear SDE with a parameter; whoever steps it asks nothing of its fields."""

    def __init__(self):
        gain = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        super().__init__(torch.stack((gain - 1, gain, -gain, gain - 2)).view(2, 2))
        self.gain, self.calls = gain, [0, 0]


def fitting(stepper):
    """An SDE that a stepper steps, with its counter and a parameter."""
    if stepper.form is nsde.LinearSDE:
        sde = Relaxing()
        return sde, sde
    if stepper.form is UnderdampedLangevin:
        well = Well()
        return UnderdampedLangevin(well), well
    sde = Counted(stepper.sde_types[0], additive=stepper.needs_additive)
    return sde, sde


def run(stepper, sde, n_steps, dtype=torch.float64, **options):
    start = torch.full((3, 2), 0.7, dtype=dtype)
    return nsde.solve(
        sde, start, [0.0, 1.0], dt=1 / n_steps, seed=0, stepper=stepper, compile="off", **options
    )


def test_the_promised_names_are_all_there():
    assert not PROMISED - {type(stepper).__name__ for stepper in STEPPERS}
    assert all(type(type(stepper)()) is type(stepper) for stepper in STEPPERS)


@every_stepper
def test_evaluations_are_what_is_promised(stepper):
    """Counted as the difference of two solves, so that looks at the door and first values cancel."""
    sde, counter = fitting(stepper)
    counts = []
    for n_steps in (4, 14):
        counter.calls[:] = [0, 0]
        with torch.no_grad():
            solution = run(stepper, sde, n_steps)
        counts.append(tuple(counter.calls))
    assert tuple(b - a for a, b in zip(*counts, strict=True)) == tuple(10 * n for n in stepper.evaluations)
    assert solution.stats["nfe"].tolist() == [14 * stepper.evaluations[0]] * 3


def test_without_a_derivative_milsteins_method_looks_at_the_noise_once_more():
    counts = []
    for n_steps in (4, 14):
        sde = Counted("stratonovich")
        run(Milstein(derivative_free=True), sde, n_steps)
        counts.append(sde.calls)
    assert [b - a for a, b in zip(*counts, strict=True)] == [10, 20]


@every_stepper
def test_float32_stays_float32_and_near(stepper):
    ends = [
        run(stepper, fitting(stepper)[0].to(dtype), 16, dtype).ys[:, -1].detach()
        for dtype in (torch.float32, torch.float64)
    ]
    assert ends[0].dtype == torch.float32
    assert torch.allclose(ends[0].double(), ends[1], atol=1e-4)


@every_stepper
def test_own_clocks_padding_and_gradients(stepper):
    """Steps of length zero change nothing and leave no NaN on the way back; a series alone is its slice."""
    sde, counter = fitting(stepper)
    ts = torch.tensor([[0.0, 0.1, math.nan], [0.0, 0.5, 1.1]], dtype=torch.float64)
    start = torch.full((2, 2), 0.7, dtype=torch.float64).requires_grad_()
    solution = nsde.solve(sde, start, ts, dt=0.05, seed=0, stepper=stepper, compile="off")
    solution.ys[~torch.isnan(ts)].sum().backward()
    assert bool(torch.isfinite(start.grad).all())
    assert bool(torch.isfinite(counter.gain.grad))
    alone = nsde.solve(sde, start[:1].detach(), ts[:1, :2], dt=0.05, seed=0, stepper=stepper, compile="off")
    assert torch.allclose(solution.ys[0, :2], alone.ys[0], atol=1e-12)


@every_stepper
def test_gradients_against_finite_differences(stepper):
    sde = fitting(stepper)[0]

    def end(start):
        return nsde.solve(sde, start, [0.0, 0.5], dt=0.25, seed=0, stepper=stepper, compile="off").ys[:, -1]

    assert torch.autograd.gradcheck(end, (torch.full((2, 2), 0.7, dtype=torch.float64).requires_grad_(),))


@every_stepper
def test_checkpointing_changes_no_gradient(stepper):
    gradients = []
    for gradient in ("backprop", "checkpoint"):
        sde, counter = fitting(stepper)
        run(stepper, sde, 9, gradient=gradient).ys.square().sum().backward()
        gradients.append(counter.gain.grad)
    assert torch.allclose(*gradients, rtol=1e-12)


@every_stepper
def test_inference_mode_changes_nothing(stepper):
    """Derivatives of the noise are there without gradients, too."""
    ends = []
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            ends.append(run(stepper, fitting(stepper)[0], 4).ys.clone())
    assert torch.allclose(*ends, atol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own, on compiling
@every_stepper
def test_compiled_steps_are_the_same(stepper):
    torch._dynamo.reset()  # it keeps a few programs only, and gives up on the next
    sde = fitting(stepper)[0].requires_grad_(False)
    start = torch.full((3, 2), 0.7, dtype=torch.float64)
    ends = [
        nsde.solve(sde, start, [0.0, 1.0], dt=1 / 16, seed=0, stepper=stepper, compile=mode).ys[:, -1]
        for mode in ("off", "chunk")
    ]
    assert torch.allclose(*ends, atol=1e-10)


@pytest.mark.parametrize(
    "stepper", [s for s in STEPPERS if s.form is nsde.SDE], ids=lambda s: type(s).__name__
)
def test_a_constant_slope_is_met_exactly(stepper):
    """Without noise the weights of the stages add up, whatever the stages."""

    class Straight(GeometricSDE):
        sde_type, additive = stepper.sde_types[0], stepper.needs_additive

        def relative_drift(self, t, y):
            return 2.0 / y

        def relative_diffusion(self, t, y):
            return torch.zeros_like(y)

        def decay(self, t):
            return torch.zeros(1, dtype=torch.float64)

    end = run(stepper, Straight(), 4).ys[:, -1]
    assert torch.allclose(end, torch.full_like(end, 2.7), atol=1e-12)


@pytest.mark.parametrize("stepper", [s for s in STEPPERS if s.embedded], ids=lambda s: type(s).__name__)
def test_embedded_errors_shrink_like_a_local_error(stepper):
    """Over a step of length h the estimate is of order h^1.5, or h where that is all the noise allows."""
    sde = fitting(stepper)[0]
    y = torch.full((4000, 2), 0.7, dtype=torch.float64)
    shape, sizes = (4000, 1 if stepper.form is UnderdampedLangevin else 2), []
    with torch.no_grad():
        for h in (0.1, 0.01, 0.001):
            noise = BrownianPath(0.0, h, shape, seed=0, levy=stepper.levy, dtype=torch.float64)
            record = noise.increment(0.0, h)
            t, length = torch.zeros((), dtype=torch.float64), torch.tensor(h, dtype=torch.float64)
            wide = (x.reshape(1, 1, 1) for x in (t, length))
            weights = tuple(part[0] for part in stepper.weights(sde, *wide))
            stepped = stepper.step(sde, Step(t, length, record, weights), y, stepper.start(sde, t, y))
            assert stepped.error.shape == y.shape
            sizes.append(float(stepped.error.abs().mean()))
    order = math.log10(sizes[0] / sizes[2]) / 2
    least = 1.5 if stepper.needs_additive or isinstance(stepper, SRK | SPaRK) else 1.0
    assert order > least - 0.15


def test_errors_by_hand():
    """One step of a drift f = -y and a noise g = y / 2, with W = .3, H = .1, h = .25."""

    class Plain(nsde.SDE):
        def drift(self, t, y):
            return -y

        def diffusion(self, t, y):
            return 0.5 * y

    sde, y = Plain(), torch.ones(1, 1, dtype=torch.float64)
    h = torch.tensor(0.25, dtype=torch.float64)
    W, H = (torch.full((1, 1), x, dtype=torch.float64) for x in (0.3, 0.1))
    step = Step(torch.zeros((), dtype=torch.float64), h, BrownianIncrement(h, W, H))
    ahead = 1 - 0.25 + 0.15
    heun = 0.5 * (0.25 * (-ahead + 1) + 0.5 * (ahead - 1) * 0.3)
    middle = 1 + 0.5 * (-0.25 + 0.15)
    midpoint = (-0.25 + 0.15) * (middle - 1)
    for stepper, error in ((Heun(), heun), (Midpoint(), midpoint)):
        assert float(stepper.step(sde, step, y, ()).error) == pytest.approx(error, rel=1e-12)
    second = 1 + 0.5 * (-0.25 + 0.15) + math.sqrt(3) * 0.05  # SPaRK's stages by hand
    third = 1 + (-0.25 + 0.15) * second
    x1, x2 = (3 - math.sqrt(3)) / 6, math.sqrt(3) / 3
    field = (x1 - 0.5) * (1 + third) + x2 * second
    spark = (-0.25 + 0.15) * field + 0.05 * (1 - third)
    assert float(SPaRK().step(sde, step, y, ()).error) == pytest.approx(spark, rel=1e-12)


def test_errors_of_the_drift_by_hand():
    class Sloped(nsde.SDE):
        additive = True

        def drift(self, t, y):
            return -y

        def diffusion(self, t, y):
            return torch.ones_like(y)

        def decay(self, t):
            return torch.zeros(1, dtype=torch.float64)

    sde, y = Sloped(), torch.ones(1, 1, dtype=torch.float64)
    t, h = torch.zeros((), dtype=torch.float64), torch.tensor(0.25, dtype=torch.float64)
    W, H = (torch.full((1, 1), x, dtype=torch.float64) for x in (0.3, 0.1))
    first = 1.1
    second = 1 + 5 / 6 * (-0.25 * first + 0.3) + 0.1
    shark = 0.6 * 0.25 * (first - second)
    sra = 2 / 3 * 0.25 * (1 - (1 + 0.75 * (-0.25 + 0.3) + 0.15))
    for stepper, error in ((ShARK(), shark), (SRA1(), sra), (ExponentialShARK(), shark)):
        weights = tuple(w[0] for w in stepper.weights(sde, t.reshape(1, 1, 1), h.reshape(1, 1, 1)))
        step = Step(t, h, BrownianIncrement(h, W, H), weights)
        stepped = stepper.step(sde, step, y, stepper.start(sde, t, y))
        assert float(stepped.error) == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize(
    "stepper", [Midpoint(), SPaRK(), SRK(), ShARK(), ExponentialHeun()], ids=lambda s: type(s).__name__
)
def test_embedded_errors_drive_adaptive_steps(stepper):
    """Tighter tolerances take more steps and come closer to the same path."""
    sde = fitting(stepper)[0]
    start = torch.full((50, 2), 0.7, dtype=torch.float64)
    path = BrownianPath(0.0, 1.0, (50, 2), seed=3, levy="space-time", dtype=torch.float64)
    with torch.no_grad():
        fine = nsde.solve(sde, start, [0.0, 1.0], dt=2.0**-9, noise=path, stepper=stepper, compile="off")
        errors, counts = [], []
        for tolerance in (3e-2, 3e-4):
            controller = PIController(rtol=tolerance, atol=tolerance)
            solution = nsde.solve(
                sde, start, [0.0, 1.0], noise=path, stepper=stepper, controller=controller, compile="off"
            )
            errors.append(float((solution.ys[:, -1] - fine.ys[:, -1]).abs().mean()))
            counts.append(float(solution.stats["accepted"].double().mean()))
    assert errors[1] < 0.3 * errors[0]
    assert counts[1] > 2 * counts[0]


def refusals(lab):
    general, diagonal = lab.Turning("ito"), lab.BlackScholes("ito")
    diagonal_plain = nsde.as_sde(lab.Stretched("ito"))
    return [
        (
            Milstein(),
            general,
            "Milstein steps diagonal, scalar, additive noise, and this SDE declares general",
        ),
        (ShARK(), diagonal, r"ShARK needs noise that does not depend on y \(additive = True\)"),
        (Heun(), diagonal, "Heun steps stratonovich SDEs, and this one is ito"),
        (QUICSORT(), diagonal, "QUICSORT steps SDEs of the form of UnderdampedLangevin"),
        (ExponentialHeun(), diagonal, r"needs a linear part, declared by the method decay\(t\)"),
        (LogODE(), diagonal_plain, "LogODE steps stratonovich SDEs"),
    ]


def test_refusals_say_why_and_what_instead(lab):
    for stepper, sde, sentence in refusals(lab):
        with pytest.raises(SolveError, match=sentence + r".*For this SDE take one of: \w+"):
            nsde.solve(sde, torch.ones(2, 2), [0.0, 1.0], stepper=stepper)


def test_noise_without_areas_is_refused(lab):
    path = BrownianPath(0.0, 1.0, (2, 2), seed=0, levy="space-time-time", dtype=torch.float64)
    start = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(DataError, match="uses the area integrals and the source carries 'space-time-time'"):
        nsde.solve(lab.Turning("stratonovich"), start, [0.0, 1.0], noise=path, stepper=LogODE())


def test_the_noise_type_alone_declares_additive_noise():
    class Additive(nsde.SDE):
        noise_type = "additive"

        def drift(self, t, y):
            return -y

        def diffusion(self, t, y):
            return torch.ones(*y.shape, 2, dtype=y.dtype)

    assert all(s.why_not(Additive()) is None for s in (ShARK(), Heun(), SRK()))


def test_capabilities_have_a_row_a_stepper():
    rows = capabilities()
    assert [row["stepper"] for row in rows] == [type(stepper).__name__ for stepper in STEPPERS]
    shark = next(row for row in rows if row["stepper"] == "ShARK")
    assert shark["noise"] == "additive"
    assert shark["strong_additive"] == 1.5
    assert shark["strong_general"] is None
    assert "LinearNoiseSDE" in next(row for row in rows if row["stepper"] == "LieSplitting")["needs"]


def test_forms_refuse_what_they_cannot_be():
    for friction, u in ((-1.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, [[1.0]])):
        with pytest.raises(DataError, match=r"friction|u: expected"):
            UnderdampedLangevin(lambda x: x, friction, u)
    assert issubclass(GeometricSDE, LinearNoiseSDE)
