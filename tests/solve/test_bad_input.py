"""Whatever is wrong is said in one sentence, at once: the argument, where, what was expected, what came."""

import math
import time

import pytest
import torch
import torchsde

import neurosde as nsde
from neurosde.errors import DataError, NeuroSDEError, ShapeError
from neurosde.noise import BrownianPath, StepNoise
from neurosde.solve import EulerMaruyama, Heun, PIController, ShARK, Status

SECONDS = 5.0  # of this process; what hangs takes for ever
NAN, INF = math.nan, math.inf
ADAPTIVE = PIController(1e-2, 1e-2)
START = torch.ones(3, 2, dtype=torch.float64)


class Fields(nsde.SDE):
    """Any drift and any diffusion."""

    def __init__(self, drift=None, diffusion=None, calculus="ito", noise_type="diagonal"):
        super().__init__()
        self.sde_type, self.noise_type = calculus, noise_type
        self._drift = drift or (lambda t, y: -y)
        self._diffusion = diffusion or (lambda t, y: 0.3 * torch.ones_like(y))

    def drift(self, t, y):
        return self._drift(t, y)

    def diffusion(self, t, y):
        return self._diffusion(t, y)


def stratonovich(**fields):
    return Fields(calculus="stratonovich", **fields)


@pytest.fixture(autouse=True)
def nothing_hangs():
    began = time.process_time()
    yield
    assert time.process_time() - began < SECONDS


def says(sentence, error, call):
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, NeuroSDEError)
    assert sentence in str(caught.value)


TIMES = [
    ([1.0, 0.0], "ts[0] = 1.0 is not followed by a later one"),
    ([0.0, 1.0, 1.0], "ts[1] = 1.0 is not followed by a later one"),
    ([0.0, INF], "ts[1] = inf is infinite"),
    ([-INF, 0.0], "ts[0] = -inf is infinite"),
    ([NAN, 1.0], "ts[0] = nan is missing"),
    ([0.0, 1.7e9, 1.7e9 + 1e-8], "ts[1] = 1700000000.0 is not followed by a later one"),  # the same float
]
STEPS = [
    (0.0, "dt: expected a positive finite step length, got 0.0"),
    (-0.1, "dt: expected a positive finite step length, got -0.1"),
    (NAN, "dt: expected a positive finite step length, got nan"),
    (INF, "dt: expected a positive finite step length, got inf"),
    (2.0, "dt = 2 is longer than the whole solve, which spans 1"),
    (1e-15, "dt = 1e-15 asks for 1e+15 steps"),
    ("small", "dt: expected a number or one a series, got 'small'"),
]
DOORS = [nsde.sdeint, nsde.sdeint_adjoint]


@pytest.mark.parametrize(("ts", "sentence"), TIMES)
def test_times(ts, sentence):
    says(sentence, DataError, lambda: nsde.solve(Fields(), START, ts))
    says(sentence, DataError, lambda: nsde.solve(stratonovich(), START, ts, controller=ADAPTIVE))
    for door in DOORS:
        says(sentence, DataError, lambda door=door: door(Fields(), START, ts, dt=0.1))


def test_times_of_one_series():
    ts = torch.tensor([[0.0, 1.0], [0.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    says("ts[2, 0] = 2.0 is not followed by a later one", DataError, lambda: nsde.solve(Fields(), START, ts))


@pytest.mark.parametrize(("dt", "sentence"), STEPS)
def test_steps(dt, sentence):
    says(sentence, DataError, lambda: nsde.solve(Fields(), START, [0.0, 1.0], dt=dt))
    for door in DOORS:
        says(sentence, DataError, lambda door=door: door(Fields(), START, [0.0, 1.0], dt=dt, method="euler"))


def test_steps_of_one_series():
    ts = torch.tensor([[0.0, 1.0]] * 3, dtype=torch.float64)
    says("got [0.1, nan, 0.1]", DataError, lambda: nsde.solve(Fields(), START, ts, dt=[0.1, NAN, 0.1]))
    says("dt = 1e-12 asks for", DataError, lambda: nsde.solve(Fields(), START, ts, dt=[0.1, 1e-12, 0.1]))


def test_times_as_close_as_floats_can_be_are_times():
    near = math.nextafter(1.0, 2.0)
    for ts in ([1.0, near], [0.0, 1.0, near, 2.0]):
        for options in ({}, {"seed": 0}, {"seed": 0, "controller": ADAPTIVE}):
            solution = nsde.solve(stratonovich(), START, ts, **options)
            assert solution.succeeded
            assert float((solution.ys[:, ts.index(near)] - solution.ys[:, ts.index(1.0)]).abs().max()) < 1e-6


def test_times_inside_one_leaf_of_a_given_path():
    """Neither road may give them a law that is not theirs."""
    path, ts = BrownianPath(0.0, 1.0, (3, 2), seed=0, dtype=torch.float64), [0.0, 0.5000011, 0.5000101, 1.0]
    says("Pass a smaller tol", DataError, lambda: nsde.solve(Fields(), START, ts, noise=path))
    adaptive = {"noise": path, "controller": ADAPTIVE}
    says("ts: 0.5000011 and 0.5000101 lie inside one leaf", DataError,
         lambda: nsde.solve(stratonovich(), START, ts, **adaptive))  # fmt: skip
    both = [0.0, 0.5000011, 1.0]
    jump = {"noise": path, "controller": PIController(1e-2, 1e-2, jump_times=(0.5000101,))}
    says("lie inside one leaf", DataError, lambda: nsde.solve(stratonovich(), START, both, **jump))


STATES = [
    (START * NAN, "y0[0, 0] is nan"),
    (torch.tensor([[0.0, 1.0], [0.0, -INF]]), "y0[1, 1] is -inf"),
    (torch.ones(2, 2, dtype=torch.int64), "y0: expected a floating point tensor, got torch.int64"),
    (torch.ones(2, 2, dtype=torch.complex64), "y0: expected a floating point tensor, got torch.complex64"),
    (torch.ones(2, 0), "y0: expected (*batch, state) with at least one series and state, got (2, 0)"),
]


@pytest.mark.parametrize(("y0", "sentence"), STATES, ids=lambda x: x if isinstance(x, str) else "")
def test_states(y0, sentence):
    error = ShapeError if 0 in y0.shape else DataError
    says(sentence, error, lambda: nsde.solve(Fields(), y0, [0.0, 1.0]))
    for door in DOORS:
        says(sentence, error, lambda door=door: door(Fields(), y0, [0.0, 1.0], dt=0.1, method="euler"))


FIELDS = [
    ({"drift": lambda t, y: y[:, :1]}, "drift: expected (series, state) = (3, 2), got (3, 1)"),
    ({"drift": lambda t, y: y.sum(-1)}, "drift: expected (series, state) = (3, 2), got (3,)"),
    ({"drift": lambda t, y: y[:2]}, "drift: expected (series, state) = (3, 2), got (2, 2)"),
    ({"diffusion": lambda t, y: y[:, :1]}, "= (3, 2) for diagonal noise, got (3, 1)"),
    ({"diffusion": lambda t, y: y.unsqueeze(-1)}, "= (3, 2) for diagonal noise, got (3, 2, 1)"),
    ({"noise_type": "general"}, "(series, state, noise) = (3, 2, 2) for general noise, got (3, 2)"),
    ({"noise_type": "additive"}, "= (3, 2, 2) for additive noise, got (3, 2)"),
    ({"noise_type": "scalar"}, "= (3, 2, 1) for scalar noise, got (3, 2)"),
    ({"noise_type": "scalar", "diffusion": lambda t, y: y.new_ones(3, 2, 2)}, "= (3, 2, 1) for scalar noise"),
    ({"noise_type": "general", "diffusion": lambda t, y: y.new_ones(2, 2)}, "for general noise, got (2, 2)"),
    ({"noise_type": "general", "diffusion": lambda t, y: y.new_ones(3, 5, 2)}, "noise, got (3, 5, 2)"),
]


@pytest.mark.parametrize(("fields", "sentence"), FIELDS, ids=lambda x: x if isinstance(x, str) else "")
def test_fields_of_the_wrong_shape(fields, sentence):
    says(sentence, ShapeError, lambda: nsde.solve(Fields(**fields), START, [0.0, 1.0]))
    says(
        sentence,
        ShapeError,
        lambda: nsde.solve(stratonovich(**fields), START, [0.0, 1.0], controller=ADAPTIVE),
    )
    for door in DOORS:
        says(
            sentence,
            ShapeError,
            lambda door=door: door(Fields(**fields), START, [0.0, 1.0], dt=0.1, method="euler"),
        )


def motion(series, channels):
    return torchsde.BrownianInterval(0.0, 1.0, size=(series, channels), dtype=torch.float64, entropy=1)


NOISES = [
    (lambda: torch.zeros(10, 3, 5), ShapeError, "noise: expected (series, noise) = (3, 2), got (3, 5)"),
    (
        lambda: torch.zeros(9, 3, 2),
        ShapeError,
        "noise: expected an increment a step, (10, 3, 2), got (9, 3, 2)",
    ),
    (
        lambda: torch.zeros(19, 3, 2),
        ShapeError,
        "noise: expected an increment a step, (10, 3, 2), got (19, 3, 2)",
    ),
    (lambda: torch.zeros(10, 6), ShapeError, "noise: expected increments (step, series, noise), got (10, 6)"),
    (
        lambda: BrownianPath(0, 1, (2, 2), seed=0),
        ShapeError,
        "noise: expected (series, noise) = (3, 2), got (2, 2)",
    ),
    (lambda: StepNoise((3, 1), seed=0), ShapeError, "noise: expected (series, noise) = (3, 2), got (3, 1)"),
    (lambda: motion(4, 2), ShapeError, "noise: expected (series, noise) = (3, 2), got (4, 2)"),
    (lambda: motion(3, 1), ShapeError, "noise: expected (series, noise) = (3, 2), got (3, 1)"),
    (lambda: BrownianPath(0, 0.5, (3, 2), seed=0), DataError, "expected values inside the path's [0.0, 0.5]"),
    (lambda: "white", DataError, "noise: expected a source, increments or a torchsde motion, got 'white'"),
]


@pytest.mark.parametrize(
    ("noise", "error", "sentence"), NOISES, ids=lambda x: x if isinstance(x, str) else ""
)
def test_noise_that_does_not_fit(noise, error, sentence):
    options = {"dt": 0.1, "stepper": EulerMaruyama()}
    says(sentence, error, lambda: nsde.solve(Fields(), START, [0.0, 1.0], noise=noise(), **options))
    for door in DOORS:
        call = {"bm": noise(), "dt": 0.1, "method": "euler"}
        says(sentence, error, lambda door=door, call=call: door(Fields(), START, [0.0, 1.0], **call))


@pytest.mark.parametrize(
    ("tolerances", "sentence"),
    [
        ((0.0, 0.0), "rtol, atol: both are 0"),
        ((-1.0, 1.0), "rtol: expected a finite tolerance"),
        ((1.0, NAN), "atol: expected a finite tolerance"),
        ((INF, 1.0), "rtol: expected a finite tolerance"),
    ],
)
def test_tolerances(tolerances, sentence):
    """torchsde takes them, and does not come back."""
    says(sentence, DataError, lambda: PIController(*tolerances))
    call = {"adaptive": True, "rtol": tolerances[0], "atol": tolerances[1], "dt": 0.1, "method": "heun"}
    for door in DOORS:
        says(sentence, DataError, lambda door=door: door(stratonovich(), START, [0.0, 1.0], **call))


def late_nan(t, y):
    return -y * torch.where((t > 0.5) & (torch.arange(len(y)).unsqueeze(-1) == 1), NAN, 1.0)


def blow_up(t, y):  # y' = y^2 leaves the finite numbers at t = 1 / y0
    return y.square()


DYING = [
    (late_nan, None, [Status.SUCCESS, Status.NOT_FINITE, Status.SUCCESS]),
    (
        blow_up,
        torch.tensor([[0.2], [1.0], [-1.0]]).double(),
        [Status.SUCCESS, Status.NOT_FINITE, Status.SUCCESS],
    ),
]


@pytest.mark.parametrize(("drift", "start", "status"), DYING, ids=["nan", "blow-up"])
def test_a_drift_that_leaves_the_finite_numbers(drift, start, status):
    start = START[:, :1] if start is None else start
    sde = Fields(drift, lambda t, y: 0.01 * torch.ones_like(y))
    with pytest.warns(RuntimeWarning, match="1 of 3 series failed; series 1 left the finite numbers"):
        solution = nsde.solve(sde, start, [0.0, 0.25, 2.0], seed=0)
    assert solution.status.tolist() == status
    assert solution.ys.isnan().squeeze(-1).tolist() == [[False] * 3, [False, False, True], [False] * 3]
    for door in DOORS:
        with pytest.warns(RuntimeWarning, match="1 of 3 series failed; series 1 left the finite numbers"):
            ys = door(sde, start, [0.0, 0.25, 2.0], dt=0.01, method="euler")
        assert ys.isnan().squeeze(-1).any(0).tolist() == [False, True, False]


@pytest.mark.parametrize(("drift", "start", "status"), DYING, ids=["nan", "blow-up"])
@pytest.mark.parametrize("shortest", [0.0, 1e-3])
def test_such_a_drift_under_a_controller(drift, start, status, shortest):
    """It gives that series up, soon, and harms no other; by which word is the next test's."""
    start = START[:, :1] if start is None else start
    sde = stratonovich(drift=drift, diffusion=lambda t, y: 0.01 * torch.ones_like(y))
    controller = PIController(1e-2, 1e-2, shortest=shortest)
    options = {"seed": 0, "controller": controller, "max_steps": 400}
    with pytest.warns(RuntimeWarning, match="1 of 3 series failed; series 1"):
        solution = nsde.solve(sde, start, [0.0, 0.25, 2.0], **options)
    assert [word == Status.SUCCESS for word in solution.status.tolist()] == [True, False, True]
    assert solution.ys[1, 2].isnan().all()
    alone = nsde.solve(sde, start[:1], [0.0, 0.25, 2.0], **options)
    assert torch.equal(solution.ys[:1], alone.ys)


@pytest.mark.filterwarnings("ignore:1 of 3 series failed:RuntimeWarning")
@pytest.mark.parametrize("shortest", [0.0, 1e-3])
def test_a_controller_tells_a_drift_that_is_no_number_from_one_that_is_too_quick(shortest):
    sde = stratonovich(drift=late_nan, diffusion=lambda t, y: 0.01 * torch.ones_like(y))
    controller = PIController(1e-2, 1e-2, shortest=shortest)
    options = {"seed": 0, "controller": controller, "max_steps": 400}
    solution = nsde.solve(sde, START[:, :1], [0.0, 0.25, 2.0], **options)
    assert solution.status.tolist() == [Status.SUCCESS, Status.NOT_FINITE, Status.SUCCESS]


def test_steppers_that_do_not_fit():
    says("steps stratonovich SDEs", nsde.errors.SolveError,
         lambda: nsde.solve(Fields(), START, [0.0, 1.0], stepper=Heun()))  # fmt: skip
    says("needs noise that does not depend on y", nsde.errors.SolveError,
         lambda: nsde.solve(Fields(), START, [0.0, 1.0], stepper=ShARK()))  # fmt: skip
