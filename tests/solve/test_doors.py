"""Arguments of the wrong kind: one sentence each that names the argument, at every door of the solver."""

import math
import re

import numpy as np
import pytest
import torch
import torchsde

import neurosde as nsde
from neurosde.errors import DataError, NeuroSDEError, ShapeError
from neurosde.solve import AbsorbingSet, Heun, LinearTransition, PIController, Status, StepPenalty

NAN = math.nan
START = torch.ones(3, 2, dtype=torch.float64)
UNIT = [0.0, 1.0]
OWN, WHOLE = PIController(1e-2, 1e-2), PIController(1e-2, 1e-2, whole_batch=True)
DOORS = [nsde.sdeint, nsde.sdeint_adjoint]


class Fields(nsde.SDE):
    """Any drift, any diffusion, and any declared linear part."""

    def __init__(self, drift=None, diffusion=None, calculus="ito", noise_type="diagonal", decay=None):
        super().__init__()
        self.sde_type, self.noise_type, self.additive = calculus, noise_type, decay is not None
        self._drift = drift or (lambda t, y: -y)
        self._diffusion = diffusion or (lambda t, y: 0.3 * torch.ones_like(y))
        self._decay = decay

    def drift(self, t, y):
        return self._drift(t, y)

    def diffusion(self, t, y):
        return self._diffusion(t, y)

    def decay(self, t):
        return self._decay


def stratonovich(**fields):
    return Fields(calculus="stratonovich", **fields)


def says(sentence, call, error=NeuroSDEError):
    with pytest.raises(error, match=re.escape(sentence)):
        call()


NO_NUMBERS = [None, "a", ["a"], {}, [[1.0, 2.0], [3.0]], True]


@pytest.mark.parametrize("ts", [*NO_NUMBERS, [0.0, 1j], torch.tensor([0.0, 1j])], ids=repr)
def test_times_that_are_no_numbers(ts):
    says("ts: expected a tensor or a list of times", lambda: nsde.solve(Fields(), START, ts), DataError)
    for door in DOORS:
        says("ts: expected", lambda door=door: door(Fields(), START, ts, dt=0.1, method="euler"), DataError)


@pytest.mark.parametrize("y0", NO_NUMBERS, ids=repr)
def test_states_that_are_no_numbers(y0):
    says("y0: expected a tensor of states", lambda: nsde.solve(Fields(), y0, UNIT), DataError)
    for door in DOORS:
        says("y0: expected a tensor", lambda door=door: door(Fields(), y0, UNIT, dt=0.1), ShapeError)


@pytest.mark.parametrize("max_steps", [1.5, -1, 0, None, "a", NAN, True], ids=repr)
@pytest.mark.parametrize("controller", [None, OWN, WHOLE], ids=["fixed", "own", "whole"])
def test_max_steps(max_steps, controller):
    says(
        "max_steps: expected a positive integer, got",
        lambda: nsde.solve(stratonovich(), START, UNIT, controller=controller, max_steps=max_steps),
        DataError,
    )


def test_max_steps_of_numpy_counts():
    assert nsde.solve(stratonovich(), START, UNIT, controller=OWN, max_steps=np.int64(500)).succeeded


OPTIONS = [
    ({"dt": True}, "dt: expected a number or one a series, got True"),
    ({"dt": 1j}, "dt: expected a number or one a series"),
    ({"penalty": "error"}, "penalty: expected a StepPenalty(...) or None, got 'error'"),
    ({"penalty": StepPenalty}, "penalty: expected a StepPenalty(...) or None"),
    ({"running": None}, "running: expected a list of RunningCost(...), got None"),
    ({"running": nsde.RunningCost(lambda t, y: y[:, 0])}, "running: expected a list of RunningCost(...)"),
    ({"running": [lambda t, y: y[:, 0]]}, "running: expected a list of RunningCost(...)"),
    ({"running": "energy"}, "running: expected a list of RunningCost(...), got 'energy'"),
    ({"series": "a"}, "series: expected integer keys, one a series"),
    ({"series": ["a", "b", "c"]}, "neurosde.noise.series_keys makes keys of any ids"),
    ({"series": [1j, 2j, 3j]}, "series: expected integer keys"),
    ({"series": [1.0, 2.0, 3.0]}, "series: expected 3 integer keys"),
    ({"series": [1, 2], "noise": torch.zeros(10, 3, 2), "dt": 0.1}, "series: expected 3 integer keys"),
    ({"noise": lambda a, b: 3.0}, "noise: expected a motion that gives (series, noise) = (3, 2), got 3.0"),
    (
        {"noise": lambda a, b: torch.ones(3, 1)},
        "noise: expected a motion that gives (series, noise) = (3, 2)",
    ),
    ({"noise": torch.zeros(10, 3, 2) * 1j, "dt": 0.1}, "noise: expected real increments"),
    ({"noise": torch.full((10, 3, 2), NAN), "dt": 0.1}, "noise[0, 0, 0] is nan; expected finite increments"),
    ({"absorbing": AbsorbingSet(lambda t, y: y[:, 0] > 0)}, "distance: expected floating point numbers"),
]


@pytest.mark.parametrize(("options", "sentence"), OPTIONS, ids=lambda x: x if isinstance(x, str) else "")
def test_options_of_the_wrong_kind(options, sentence):
    says(sentence, lambda: nsde.solve(Fields(), START, UNIT, **options))


TOLERANCE, LENGTH = "a finite tolerance >= 0", "a finite length of time >= 0"
NUMBERS = {
    "rtol": TOLERANCE, "atol": TOLERANCE, "shortest": LENGTH, "pcoeff": "a finite number",
    "icoeff": "a finite number", "safety": "a number", "factor_min": "a number", "factor_max": "a number",
    "first": "a positive first step, or None",
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), NUMBERS.items())
@pytest.mark.parametrize("value", ["a", None, 1j, True, [0.5], torch.tensor([0.5]), NAN, {}], ids=repr)
def test_numbers_of_a_controller(name, expected, value):
    if name == "first" and value is None:
        return
    says(f"{name}: expected {expected}, got",
         lambda: PIController(**{"rtol": 0.1, "atol": 0.1, name: value}), DataError)  # fmt: skip


@pytest.mark.parametrize("name", ["pcoeff", "icoeff", "first", "shortest", "rtol", "atol"])
@pytest.mark.parametrize("value", [math.inf, 10**400], ids=["inf", "large"])
def test_infinite_numbers_of_a_controller(name, value):
    says(f"{name}: expected",
         lambda: PIController(**{"rtol": 0.1, "atol": 0.1, name: value}), DataError)  # fmt: skip


CONTROLLERS = [
    ({"jump_times": None}, "jump_times: expected a list of finite times, got None"),
    ({"jump_times": 3}, "jump_times: expected a list of finite times, got 3"),
    ({"jump_times": "ab"}, "jump_times: expected a list of finite times, got 'ab'"),
    ({"jump_times": torch.tensor(0.1)}, "jump_times: expected a list of finite times"),
    ({"jump_times": [0.1, "a"]}, "jump_times[1]: expected a finite time, got 'a'"),
    ({"jump_times": (0.1, NAN)}, "jump_times[1]: expected a finite time, got nan"),
    ({"jump_times": [True]}, "jump_times[0]: expected a finite time, got True"),
    ({"jump_times": [[0.1]]}, "jump_times[0]: expected a finite time, got [0.1]"),
    ({"whole_batch": "no"}, "whole_batch: expected True or False, got 'no'"),
    ({"whole_batch": None}, "whole_batch: expected True or False, got None"),
    ({"whole_batch": 1}, "whole_batch: expected True or False, got 1"),
]


@pytest.mark.parametrize(("arguments", "sentence"), CONTROLLERS)
def test_controllers_that_cannot_be_used(arguments, sentence):
    says(sentence, lambda: PIController(0.1, 0.1, **arguments), DataError)


def test_controllers_as_users_bring_them():
    """Equal, whatever they were built of, and hashable; a generator of jumps is not used up."""
    plain = PIController(0.25, 0.5, first=0.125, jump_times=(0.25, 0.5), whole_batch=True)
    for jumps in ([0.25, 0.5], np.array([0.25, 0.5]), torch.tensor([0.25, 0.5]), (x / 4 for x in (1, 2))):
        given = PIController(
            np.float32(0.25), torch.tensor(0.5), first=np.array(0.125), jump_times=jumps, whole_batch=np.True_
        )
        assert given == plain
        assert hash(given) == hash(plain)


NAMES = [
    ("drift", 'names: expected a dict such as {"drift": "mu"}'),
    (3, "names: expected a dict"),
    ({"drift": 3}, "names: expected a dict"),
    ({"banana": "f"}, "names: expected roles among drift, diffusion"),
]


@pytest.mark.parametrize(("names", "sentence"), NAMES)
def test_names_of_methods(names, sentence):
    says(sentence, lambda: nsde.as_sde(Fields(), names), DataError)
    for door in DOORS:
        says(sentence, lambda door=door: door(Fields(), START, UNIT, dt=0.1, names=names), DataError)


def test_an_sde_that_is_none():
    says("sde: expected an instance such as Fields(), got the class itself",
         lambda: nsde.solve(Fields, START, UNIT), DataError)  # fmt: skip

    class Constant:
        sde_type, noise_type, f, g = "ito", "diagonal", 3.0, 1.0

    says("has neither a method 'f' (drift)", lambda: nsde.solve(Constant(), START, UNIT), DataError)


class Both(Fields):
    def drift_and_diffusion(self, t, y):
        return -y


WAYS = [
    ("ito", {}),
    ("ito", {"seed": 0, "gradient": "adjoint"}),
    ("stratonovich", {"controller": OWN}),
    ("stratonovich", {"stepper": Heun()}),
]
NO_TENSORS = [
    (lambda t, y: 0.5, "got 0.5 of type float"),
    (lambda t, y: None, "got None of type NoneType"),
    (lambda t, y: [0.0], "got [0.0] of type list"),
    (lambda t, y: np.ones(y.shape), "of type ndarray; a constant c is torch.full_like(y, c)"),
]


@pytest.mark.parametrize("field", ["drift", "diffusion"])
@pytest.mark.parametrize(("value", "sentence"), NO_TENSORS)
@pytest.mark.parametrize(("calculus", "options"), WAYS)
def test_fields_that_give_no_tensor(field, value, sentence, calculus, options):
    sde = Fields(calculus=calculus, **{field: value})
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            says(f"sde: {field}: expected a tensor (series, state) = (3, 2)",
                 lambda: nsde.solve(sde, START, UNIT, **options), DataError)  # fmt: skip
            says(sentence, lambda: nsde.solve(sde, START, UNIT, **options), DataError)


@pytest.mark.parametrize("noise_type", ["general", "additive", "scalar"])
def test_general_fields_that_give_no_tensor(noise_type):
    sde = Fields(diffusion=lambda t, y: 0.5, noise_type=noise_type)
    says("sde: diffusion: expected a tensor (series, state, noise)",
         lambda: nsde.solve(sde, START, UNIT), DataError)  # fmt: skip


def test_fields_that_are_not_a_pair():
    says("sde: drift_and_diffusion: expected a pair of tensors", lambda: nsde.solve(Both(), START, UNIT))


@pytest.mark.parametrize("field", ["drift", "diffusion"])
@pytest.mark.parametrize("value", [lambda t, y: -y[:, :1], lambda t, y: -y[0], lambda t, y: y.sum()])
def test_fields_of_the_wrong_shape_are_refused_without_a_gradient_too(field, value):
    """They would broadcast."""
    with torch.no_grad():
        says(f"sde: {field}: expected (series, state) = (3, 2)",
             lambda: nsde.solve(Fields(**{field: value}), START, UNIT), ShapeError)  # fmt: skip


@pytest.mark.parametrize("field", ["drift", "diffusion"])
@pytest.mark.parametrize(("calculus", "options"), WAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.bool])
def test_fields_of_a_dtype_that_states_cannot_keep(field, calculus, options, dtype):
    sde = Fields(calculus=calculus, **{field: lambda t, y: y.to(dtype)})
    says(f"sde: {field}: expected the dtype of the states, torch.float32, got {dtype}",
         lambda: nsde.solve(sde, START.float(), UNIT, **options), DataError)  # fmt: skip


@pytest.mark.parametrize("field", ["drift", "diffusion"])
@pytest.mark.parametrize(("calculus", "options"), WAYS)
def test_fields_of_a_narrower_dtype_are_taken(field, calculus, options):
    sde = Fields(calculus=calculus, **{field: lambda t, y: 0.5 * y.float()})
    assert nsde.solve(sde, START, UNIT, **options).ys.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("noise_type", ["general", "additive", "scalar"])
def test_a_matrix_of_noise_has_the_dtype_of_the_states(dtype, noise_type):
    ones = torch.ones(3, 2, 1 if noise_type == "scalar" else 2, dtype=dtype)
    says("sde: diffusion: expected the dtype of the states, torch.float64, for it is multiplied",
         lambda: nsde.solve(Fields(diffusion=lambda t, y: ones, noise_type=noise_type), START, UNIT),
         DataError)  # fmt: skip


LINEAR_PARTS = [
    (1.0, "got 1.0 of type float"),
    ([1.0, 1.0], "of type list"),
    (torch.ones(3), "a tensor for 2 states, got (3,)"),
    (torch.ones(2, 3), "got (2, 3)"),
    (torch.ones(5, 5), "got (5, 5)"),
]


@pytest.mark.parametrize(("decay", "sentence"), LINEAR_PARTS, ids=lambda x: x if isinstance(x, str) else "")
@pytest.mark.parametrize("controller", [None, OWN])
def test_linear_parts(decay, sentence, controller):
    says("sde: decay(t): expected rates (state,)", lambda: nsde.solve(Fields(decay=decay), START, UNIT))
    says(sentence, lambda: nsde.solve(Fields(decay=decay), START, UNIT), ShapeError)


def interval(t, y):
    return 9.0 + y.sum(-1)


COSTS = [
    ("c", lambda t, y: y[:, :1], "expected a rate (series,) = (3,), got (3, 1)"),
    ("c", lambda t, y: y, "expected a rate (series,) = (3,), got (3, 2)"),
    ("c", lambda t, y: y.sum(), "expected a rate (series,) = (3,), got ()"),
    ("c", lambda t, y: y[:1, 0], "expected a rate (series,) = (3,), got (1,)"),
    ("c", lambda t, y: 1.0, "expected a rate (series,) = (3,), got 1.0"),
    ("c", lambda t, y: None, "expected a rate (series,) = (3,), got None"),
    ("c", lambda t, y: y.sum(-1) * 1j, "expected a rate of real numbers"),
    ("h", lambda t, y: y[:, :1], "expected an integrand (series, noise) = (3, 2), got (3, 1)"),
    ("h", lambda t, y: y[:, 0], "expected an integrand (series, noise) = (3, 2), got (3,)"),
    ("h", lambda t, y: y.sum(), "expected an integrand (series, noise) = (3, 2), got ()"),
    ("h", lambda t, y: 1.0, "expected an integrand (series, noise) = (3, 2), got 1.0"),
    ("h", lambda t, y: None, "expected an integrand (series, noise) = (3, 2), got None"),
]


@pytest.mark.parametrize(("role", "value", "sentence"), COSTS)
@pytest.mark.parametrize(
    "options", [{}, {"controller": OWN}, {"controller": WHOLE}, {"absorbing": AbsorbingSet(interval)}]
)
def test_running_costs_of_the_wrong_shape(role, value, sentence, options):
    cost = nsde.RunningCost(**{role: value}, name="energy")
    says(f"running: 'energy': {sentence}",
         lambda: nsde.solve(stratonovich(), START, UNIT, running=[cost], **options))  # fmt: skip


def test_a_running_cost_that_forgets_that_series_have_their_own_times():
    cost = nsde.RunningCost(lambda t, y: torch.exp(-t) * y.sum(-1))
    assert nsde.solve(stratonovich(), START, UNIT, running=[cost]).succeeded
    says("expected a rate (series,) = (3,), got (3, 3); one that is the same for all is written with expand; "
         "with exits or adaptive steps t is (series, 1), so write t.squeeze(-1)",
         lambda: nsde.solve(stratonovich(), START, UNIT, running=[cost], controller=OWN))  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [((3.0,), "c: expected a function"), ((None, "h"), "h: expected a function"),
     ((interval, None, 3), "name: expected a word")],
)  # fmt: skip
def test_running_costs_that_are_none(arguments, sentence):
    says(sentence, lambda: nsde.RunningCost(*arguments), DataError)


def late(bad):
    """A rate that is ``bad`` for series 1 after t = 0.5."""

    def rate(t, y):
        second = torch.arange(len(y)) == 1
        return torch.where((t.expand(len(y), 1).squeeze(-1) > 0.5) & second, bad, y.square().sum(-1))

    return rate


NOT_FINITE = [
    {"dt": 0.01},
    {"dt": 0.01, "gradient": "checkpoint"},
    {"controller": OWN},
    {"controller": WHOLE},
    {"dt": 0.01, "absorbing": AbsorbingSet(interval)},
]


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("options", NOT_FINITE)
def test_a_running_cost_that_leaves_the_finite_numbers(bad, options):
    """That series has failed from the step on; the others, and their gradients, are as without it."""
    gain, ts = torch.tensor(0.5, dtype=torch.float64, requires_grad=True), [0.0, 0.5, 1.0]
    sde = stratonovich(drift=lambda t, y: -gain * y)
    results = []
    for cost in (late(bad), late(0.0)):
        running = [nsde.RunningCost(cost, name="energy")]
        call = {"seed": 0, "running": running, **options}
        if not results:
            with pytest.warns(RuntimeWarning, match="series 1 left the finite numbers: .* or a running cost"):
                solution = nsde.solve(sde, START, ts, **call)
            assert solution.status.tolist() == [Status.SUCCESS, Status.NOT_FINITE, Status.SUCCESS]
            assert solution.running["energy"].isnan().tolist() == [
                [False] * 3,
                [False, False, True],
                [False] * 3,
            ]
            assert solution.ys[1].isnan().all(-1).tolist() == [False, False, True]
        else:
            solution = nsde.solve(sde, START, ts, **call)
        rest = solution.ys[::2].sum() + solution.running["energy"][::2].sum()
        results.append((rest.detach(), torch.autograd.grad(rest, gain)[0]))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize("t", [None, "a", 1j, [0.0, 1.0]])
def test_evaluation_at_what_is_no_time(t):
    solution = nsde.solve(Fields(), START, UNIT)
    says("t: expected one of the requested times", lambda: solution.evaluate(t), (DataError, ShapeError))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("method", ["euler", "milstein", "srk"])
def test_the_default_step_of_torchsde_on_a_shorter_span_is_one_step(door, method):
    ts = torch.tensor([0.0, 1e-4], dtype=torch.float64)
    motion = torchsde.BrownianInterval(
        0.0, 1e-4, size=(3, 2), dtype=torch.float64, entropy=1, levy_area_approximation="space-time"
    )
    theirs = torchsde.sdeint(Fields(), START, ts, bm=motion, method=method)
    assert torch.allclose(door(Fields(), START, ts, bm=motion, method=method), theirs, rtol=1e-12, atol=0)
    says(
        "dt = 0.01 is longer than the whole solve", lambda: door(Fields(), START, ts, dt=0.01, method=method)
    )


TORCHSDE = [
    ({"method": []}, "method: expected one of euler"),
    ({"method": 3}, "method: expected one of euler"),
    ({"adaptive": True, "rtol": "a"}, "rtol: expected a finite tolerance >= 0, got 'a'"),
    ({"adaptive": True, "atol": None}, "atol: expected a finite tolerance >= 0, got None"),
    ({"adaptive": True, "dt_min": "a"}, "dt_min: expected a finite length of time >= 0, got 'a'"),
    ({"adaptive": True, "dt_min": -1.0}, "dt_min: expected a finite length of time >= 0, got -1.0"),
    ({"adaptive": True, "dt": "a"}, "dt: expected a positive first step, got 'a'"),
    ({"adaptive": True, "dt": -0.1}, "dt: expected a positive first step, got -0.1"),
    ({"extra_solver_state": "abc"}, "extra_solver_state: expected what extra=True gave"),
    ({"extra_solver_state": 3}, "extra_solver_state: expected what extra=True gave"),
    ({"extra_solver_state": (1, 2, 3)}, "extra_solver_state: expected what extra=True gave"),
    ({"extra_solver_state": (START, START, START[:1])}, "and (1, 2)"),
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("arguments", "sentence"), TORCHSDE, ids=lambda x: x if isinstance(x, str) else "")
def test_arguments_of_torchsde_of_the_wrong_kind(door, arguments, sentence):
    call = {"method": "reversible_heun", "dt": 0.1, **arguments}
    says(sentence, lambda: door(stratonovich(), START, UNIT, **call), (DataError, ShapeError))


@pytest.mark.parametrize(
    "parameters", [3, "ab", [3], [None], START], ids=["3", "ab", "[3]", "[None]", "tensor"]
)
def test_parameters_of_an_adjoint_that_are_none(parameters):
    call = {"dt": 0.1, "method": "midpoint", "adjoint_params": parameters}
    says("adjoint_params: expected a list of tensors",
         lambda: nsde.sdeint_adjoint(stratonovich(), START, UNIT, **call), DataError)  # fmt: skip


def test_methods_that_hand_nothing_on():
    """As in torchsde: the extra state of its "srk" is empty, and one that is given is not used."""
    sde = Fields(diffusion=lambda t, y: torch.eye(2).to(y).expand(len(y), 2, 2), noise_type="additive")
    ys, extra = nsde.sdeint(sde, START, UNIT, dt=0.1, method="srk", extra=True)
    assert extra == ()
    given = (START, START, START)
    again = nsde.sdeint(sde, START, UNIT, dt=0.1, method="srk", extra_solver_state=given)
    assert again.shape == ys.shape


@pytest.mark.parametrize("stepper", [None, LinearTransition()], ids=["default", "given"])
def test_a_linear_sde_takes_one_exact_step_an_interval(stepper):
    sde = nsde.LinearSDE([[0.0, 1.0], [-4.0, -0.5]], [0.0, 1.0], [[0.0], [0.7]])
    start, ts = torch.tensor([[1.0, -1.0]], dtype=torch.float64).expand(20_000, 2), [0.0, 0.3, 0.35, 5.0]
    solution = nsde.solve(sde, start, ts, seed=0, stepper=stepper)
    assert solution.stats["accepted"].unique().tolist() == [3]
    z = solution.ys[:, -1]
    law = sde.transition(5.0)
    mean = law.Phi @ start[0] + law.m
    assert torch.allclose(z.mean(0), mean, atol=5 * float(law.Q.diagonal().max().sqrt()) / math.sqrt(len(z)))
    assert torch.allclose(torch.cov(z.T), law.Q, atol=5 * 1.5 * float(law.Q.max()) / math.sqrt(len(z)))


def test_a_linear_sde_takes_steps_where_they_are_needed():
    """For the integral of a cost, exits, an adjoint; and where they are asked for."""
    sde, start = nsde.LinearSDE([[-1.0]]), torch.zeros(3, 1, dtype=torch.float64)
    cost = nsde.RunningCost(lambda t, y: y.square().sum(-1))

    def steps(**options):
        return nsde.solve(sde, start, UNIT, seed=0, **options).stats["accepted"][0].item()

    assert steps() == 1
    assert steps(running=[cost]) == 100
    assert steps(absorbing=AbsorbingSet(interval)) == 100
    assert steps(gradient="adjoint") == 100
    assert steps(dt=0.1) == 10
