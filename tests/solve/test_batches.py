"""A series alone is its slice of a batch, bit for bit: whatever stepper, clock, key or company."""

import math

import pytest
import torch

import neurosde as nsde
from neurosde.forms import GeometricSDE, LinearNoiseSDE, UnderdampedLangevin
from neurosde.noise import StepNoise
from neurosde.solve import STEPPERS, Heun, Milstein, PIController

KNOWN = [3, 2, 1, 3, 3]
FORMS = (
    nsde.SDE,
    LinearNoiseSDE,
    GeometricSDE,
    UnderdampedLangevin,
)  # a product of matrices rounds by its size
EVERY = [stepper for stepper in (*STEPPERS, Milstein(derivative_free=True)) if stepper.form in FORMS]
EMBEDDED = [stepper for stepper in EVERY if stepper.embedded]
KEYS = torch.tensor([7, -3, 2**40, 11, 0])

clocks = pytest.mark.parametrize(
    "own", [pytest.param(False, marks=pytest.mark.slow), True], ids=["shared times", "own times"]
)


class Fields(GeometricSDE):
    """Elementwise fields of any calculus, with a linear part; some series are stiffer than others."""

    def __init__(self, stepper):
        super().__init__()
        self.sde_type, self.additive = stepper.sde_types[0], stepper.needs_additive

    def relative_drift(self, t, y):
        return -1.3 + 0.3 * torch.cos(t) * torch.sin(3 * y)

    def relative_diffusion(self, t, y):
        return (0.4 + 0.1 * torch.sin(t)) * (1 / y if self.additive else torch.ones_like(y))

    def decay(self, t):
        return torch.tensor([1.3], dtype=torch.float64)


def fields(stepper):
    if stepper.form is UnderdampedLangevin:
        return UnderdampedLangevin(lambda x: x + torch.sin(2 * x))
    return Fields(stepper)


def start(n=5):
    return torch.linspace(0.2, 3.0, 2 * n, dtype=torch.float64).view(n, 2)


def name(stepper):
    return type(stepper).__name__ + ("_derivative_free" if getattr(stepper, "derivative_free", False) else "")


def same(batch, alone, rows):
    """States, costs, status and counts of some rows of a batch, bit for bit."""
    for i, one in zip(rows, alone, strict=True):
        n = one.ys.shape[1]
        assert torch.equal(batch.ys[i, :n], one.ys[0])
        for cost in batch.running:
            assert torch.equal(batch.running[cost][i, :n], one.running[cost][0])
        assert batch.status[i] == one.status[0]
        assert all(batch.stats[count][i] == one.stats[count][0] for count in batch.stats)


OWN = torch.tensor(
    [
        [0.0, 0.31, 1.0],
        [0.5, 0.62, math.nan],
        [0.0, math.nan, math.nan],
        [-1.0, -0.3, 0.4],
        [0.1, 0.7, 0.71],
    ],
    dtype=torch.float64,
)


@clocks
@pytest.mark.parametrize("stepper", EVERY, ids=name)
def test_equal_steps(stepper, own):
    sde = fields(stepper)
    cost = [nsde.RunningCost(lambda t, y: torch.sin(y[:, 0]), name="sine")]
    options = {"stepper": stepper, "seed": 3, "running": cost, "compile": "off", "dt": 0.07}
    times = OWN if own else torch.tensor([0.0, 0.31, 1.0], dtype=torch.float64)
    with torch.no_grad():
        batch = nsde.solve(sde, start(), times, series=KEYS, **options)
        alone = []
        for i in range(5):
            known = times[i : i + 1, : int(KNOWN[i])] if own else times
            alone.append(nsde.solve(sde, start()[i : i + 1], known, series=KEYS[i : i + 1], **options))
    same(batch, alone, range(5))


@clocks
@pytest.mark.parametrize("stepper", EMBEDDED, ids=name)
def test_adaptive_steps(stepper, own):
    """Each series has its own clock: neither its states nor its number of steps know of the others."""
    sde, controller = fields(stepper), PIController(5e-2, 5e-2)
    cost = [nsde.RunningCost(lambda t, y: torch.sin(y[:, 0]), name="sine")]
    options = {"stepper": stepper, "seed": 3, "running": cost, "compile": "off", "controller": controller}
    times = OWN if own else torch.tensor([0.0, 0.31, 1.0], dtype=torch.float64)
    rows = [0, 1, 3]
    with torch.no_grad():
        batch = nsde.solve(sde, start(), times, series=KEYS, **options)
        alone = []
        for i in rows:
            known = times[i : i + 1, : int(KNOWN[i])] if own else times
            alone.append(nsde.solve(sde, start()[i : i + 1], known, series=KEYS[i : i + 1], **options))
    same(batch, alone, rows)
    assert own or not isinstance(stepper, Heun) or len(set(batch.stats["accepted"].tolist())) > 1


def test_any_order_of_the_rows():
    sde, order = fields(Heun()), torch.tensor([3, 0, 4, 1, 2])
    for options in ({"dt": 0.07}, {"controller": PIController(1e-2, 1e-2)}):
        one, two = (
            nsde.solve(
                sde, start()[rows], [0.0, 0.31, 1.0], seed=3, series=KEYS[rows], stepper=Heun(), **options
            )
            for rows in (slice(None), order)
        )
        assert torch.equal(one.ys[order], two.ys)


def test_rows_that_are_keyed_by_position_are_told_apart():
    """The twin: noise that is keyed by the position in the batch moves with the company."""
    sde, ts = fields(Heun()), [0.0, 0.31, 1.0]
    for options in ({"dt": 0.07}, {"controller": PIController(1e-2, 1e-2)}):
        batch = nsde.solve(sde, start(), ts, seed=3, stepper=Heun(), **options).ys
        alone = nsde.solve(sde, start()[2:3], ts, seed=3, stepper=Heun(), **options).ys
        assert not torch.equal(batch[2], alone[0])


@pytest.mark.parametrize(
    "options", [{"dt": 0.5}, {"controller": PIController(5e-2, 5e-2)}], ids=["equal", "own"]
)
def test_a_neighbour_with_times_very_close_together(options):
    """Two times nearer than a leaf of the default tree make its leaves smaller, for that series alone."""
    sde = fields(Heun())
    times = torch.tensor([[0.0, 0.3, 1.0], [0.0, 0.5, 0.500001]], dtype=torch.float64)
    batch, alone = (
        nsde.solve(sde, start(2)[:n], times[:n], seed=0, stepper=Heun(), **options).ys for n in (2, 1)
    )
    assert torch.equal(batch[:1], alone)


def test_noise_by_the_step_as_well():
    sde = fields(Heun())
    ends = [
        nsde.solve(sde, start()[rows], [0.0, 1.0], dt=0.07, stepper=Heun(), noise=noise).ys
        for rows in (slice(None), slice(1, 3))
        for noise in [StepNoise((len(KEYS[rows]), 2), seed=1, series=KEYS[rows], dtype=torch.float64)]
    ]
    assert torch.equal(ends[0][1:3], ends[1])
