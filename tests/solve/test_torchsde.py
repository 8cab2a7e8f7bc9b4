"""The drop-in: torchsde's arguments, shapes, errors, and with its own Brownian motion its own numbers."""

import pytest
import torch
import torchsde

import neurosde as nsde
from neurosde.errors import DataError, ShapeError

TS = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)


class Theirs(torch.nn.Module):
    """A torchsde SDE: the object knows nothing of this package."""

    def __init__(self, sde_type="ito", noise_type="diagonal"):
        super().__init__()
        self.sde_type, self.noise_type = sde_type, noise_type
        self.theta = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def f(self, t, y):
        return torch.sin(t) - self.theta * y

    def h(self, t, y):
        return -self.theta * y

    def g(self, t, y):
        diagonal = 0.3 + 0.1 * torch.cos(y)
        if self.noise_type == "diagonal":
            return diagonal
        if self.noise_type == "scalar":
            return diagonal.unsqueeze(-1)
        if self.noise_type == "additive":
            return torch.full((*y.shape, 2), 0.3, dtype=y.dtype) * torch.cos(t)
        return torch.stack((diagonal, 0.2 * torch.sin(y)), dim=-1)


def start():
    return torch.ones(3, 2, dtype=torch.float64)


def motion(noise_type, levy="none", entropy=3):
    size = (3, 1 if noise_type == "scalar" else 2)
    return torchsde.BrownianInterval(
        0.0, 1.0, size=size, dtype=torch.float64, entropy=entropy, levy_area_approximation=levy
    )


CASES = [
    (method, sde_type, noise_type)
    for method, sde_types, noise_types in (
        ("euler", ["ito"], ["diagonal", "scalar", "additive", "general"]),
        ("milstein", ["ito", "stratonovich"], ["diagonal", "scalar", "additive"]),
        ("srk", ["ito"], ["diagonal", "scalar"]),
        ("midpoint", ["stratonovich"], ["diagonal", "scalar", "additive", "general"]),
        ("heun", ["stratonovich"], ["diagonal", "scalar", "additive", "general"]),
        ("euler_heun", ["stratonovich"], ["diagonal", "scalar", "additive", "general"]),
        ("reversible_heun", ["stratonovich"], ["diagonal", "scalar", "additive", "general"]),
    )
    for sde_type in sde_types
    for noise_type in noise_types
]


@pytest.mark.parametrize(("method", "sde_type", "noise_type"), CASES)
def test_the_same_increments_give_the_same_numbers(method, sde_type, noise_type):
    """dt = 2^-5 and power-of-two times are exact in binary, so both engines take the same steps."""
    sde = Theirs(sde_type, noise_type)
    path = motion(noise_type, "space-time" if method == "srk" else "none")
    theirs = torchsde.sdeint(sde, start(), TS, bm=path, method=method, dt=2.0**-5)
    ours = nsde.sdeint(sde, start(), TS, bm=path, method=method, dt=2.0**-5)
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-12)


def test_srk_with_additive_noise_has_the_same_limit():
    """Both are Rossler's SRA1 in their own form, so they agree to their order only."""
    sde, path = Theirs("ito", "additive"), motion("additive", "space-time")
    both = [module.sdeint(sde, start(), TS, bm=path, method="srk", dt=2.0**-7) for module in (torchsde, nsde)]
    assert torch.allclose(*both, atol=1e-3)


def test_milstein_without_derivatives_is_torchsdes():
    sde, path = Theirs(), motion("diagonal")
    both = [
        module.sdeint(sde, start(), TS, bm=path, method="milstein", dt=2.0**-5, options={"grad_free": True})
        for module in (torchsde, nsde)
    ]
    assert torch.allclose(*both, atol=1e-2)


@pytest.mark.parametrize("sde_type", ["ito", "stratonovich"])
@pytest.mark.parametrize("noise_type", ["diagonal", "scalar", "additive", "general"])
def test_defaults_run_for_every_kind(sde_type, noise_type):
    ys = nsde.sdeint(Theirs(sde_type, noise_type), start(), TS.tolist(), dt=0.1)
    assert ys.shape == (3, 3, 2)
    assert torch.equal(ys[0], start())


def test_logqp_is_torchsdes():
    sde = Theirs()
    wide = torchsde.BrownianInterval(0.0, 1.0, size=(3, 3), dtype=torch.float64, entropy=3)
    _, theirs = torchsde.sdeint(sde, start(), TS, bm=wide, method="euler", dt=2.0**-8, logqp=True)
    _, ours = nsde.sdeint(sde, start(), TS, bm=motion("diagonal"), method="euler", dt=2.0**-8, logqp=True)
    assert ours.shape == theirs.shape == (2, 3)
    assert torch.allclose(ours, theirs, rtol=0.05)


def test_the_extra_state_continues_a_solve():
    sde, call = Theirs("stratonovich"), {"method": "reversible_heun", "dt": 2.0**-5, "extra": True}
    theirs, their_end = torchsde.sdeint(sde, start(), TS, bm=motion("diagonal"), **call)
    whole, end = nsde.sdeint(sde, start(), TS, bm=motion("diagonal"), **call)
    path = motion("diagonal")
    first, carried = nsde.sdeint(sde, start(), TS[:2], bm=path, **call)
    second, last = nsde.sdeint(sde, first[-1], TS[1:], bm=path, extra_solver_state=carried, **call)
    assert torch.allclose(second[-1], whole[-1], atol=1e-12)
    for mine, other, again in zip(end, their_end, last, strict=True):
        assert torch.allclose(mine, other, atol=1e-12)
        assert torch.allclose(mine, again, atol=1e-12)
    assert torch.allclose(whole, theirs, atol=1e-12)
    _, _, nothing = nsde.sdeint(Theirs(), start(), TS, method="euler", dt=0.1, extra=True, logqp=True)
    assert nothing == ()


@pytest.mark.parametrize(("method", "sde_type"), [("heun", "stratonovich"), ("euler", "ito"), (None, "ito")])
def test_adaptive_steps_have_the_same_law(method, sde_type):
    sde, n = Theirs(sde_type), 400
    y = torch.ones(n, 2, dtype=torch.float64)
    call = {"adaptive": True, "rtol": 1e-2, "atol": 1e-2, "dt": 0.05, "method": method}
    with torch.no_grad():
        ours = nsde.sdeint(sde, y, TS, **call)[-1]
        path = torchsde.BrownianInterval(
            0.0, 1.0, size=(n, 2), dtype=torch.float64, entropy=1, levy_area_approximation="space-time"
        )
        exact = torchsde.sdeint(sde, y, TS, bm=path, dt=2.0**-6, method=method)[-1]
    spread = float(exact.std()) / n**0.5
    assert float((ours.mean(0) - exact.mean(0)).abs().max()) < 6 * spread
    assert float((ours.std(0) / exact.std(0) - 1).abs().max()) < 0.3


@pytest.mark.parametrize(("method", "sde_type"), [("reversible_heun", "stratonovich"), ("euler", "ito")])
def test_the_adjoint_gives_the_gradient(method, sde_type):
    sde, path, gradients = Theirs(sde_type), motion("diagonal"), []
    for integrate in (nsde.sdeint, nsde.sdeint_adjoint, torchsde.sdeint_adjoint):
        sde.zero_grad()
        y = start().requires_grad_()
        integrate(sde, y, TS, bm=path, method=method, dt=2.0**-7).square().sum().backward()
        gradients.append(torch.cat((y.grad.flatten(), sde.theta.grad.flatten())))
    exact, ours, _ = gradients
    tolerance = 1e-10 if method == "reversible_heun" else 0.02
    assert torch.allclose(ours, exact, rtol=tolerance, atol=tolerance)


def test_parameters_can_be_named_for_any_object():
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    class Plain:
        sde_type, noise_type = "ito", "diagonal"

        def f(self, t, y):
            return -weight * y

        def g(self, t, y):
            return 0.1 * torch.ones_like(y)

    nsde.sdeint_adjoint(
        Plain(), start(), TS, dt=0.1, method="euler", adjoint_params=(weight,)
    ).sum().backward()
    assert float(weight.grad) != 0
    with pytest.raises(DataError, match="expected a torch module, whose parameters get a gradient"):
        nsde.sdeint_adjoint(Plain(), start(), TS)
    _, kl = nsde.sdeint_adjoint(Theirs(), start(), TS, dt=0.1, method="euler", logqp=True)
    assert kl.shape == (2, 3)


def test_other_names():
    class Named:
        sde_type, noise_type = "ito", "diagonal"

        def mu(self, t, y):
            return -y

        def sigma(self, t, y):
            return 0.0 * y

    ys = nsde.sdeint(
        Named(), start(), TS, dt=0.01, names={"drift": "mu", "diffusion": "sigma"}, method="euler"
    )
    assert float(ys[-1, 0, 0]) == pytest.approx(0.99**100)


def test_errors_are_value_errors_as_theirs_and_name_the_argument():
    for call, message in (
        ({"method": "rk4"}, "method: expected one of"),
        ({"ts": torch.tensor([1.0, 0.0])}, "ts"),
        ({"names": {"drift": "nothing"}}, "neither a method"),
        ({"logqp": True, "names": {"prior_drift": "nothing"}}, "no method 'nothing' for the prior drift"),
        ({"adaptive": True, "bm": motion("diagonal")}, "they need a BrownianPath"),
    ):
        arguments = {"ts": TS, **call}
        with pytest.raises(ValueError, match=message) as caught:
            nsde.sdeint(Theirs(), start(), arguments.pop("ts"), dt=0.1, **arguments)
        assert isinstance(caught.value, DataError)
    with pytest.raises(ShapeError, match="y0: expected a tensor"):
        nsde.sdeint(Theirs(), start()[0], TS)
    with pytest.warns(UserWarning, match=r"unexpected arguments \['trapezoidal_approx'\]"):
        nsde.sdeint(Theirs(), start(), TS, dt=0.1, trapezoidal_approx=True)


class Mistaken(Theirs):
    """A drift or a diffusion of a wrong shape."""

    def __init__(self, wrong, noise_type="diagonal"):
        super().__init__("ito", noise_type)
        self.wrong = wrong

    def f(self, t, y):
        return {"f, state": y[:, :1], "f, axis": y.sum(-1), "f, series": y[:2]}.get(self.wrong, -y)

    def g(self, t, y):
        if self.wrong == "g, axis":
            return y.unsqueeze(-1)
        return {"g, state": y[:, :1], "g, series": y[:2]}.get(self.wrong, super().g(t, y))


class Incomplete:
    noise_type = "diagonal"

    def f(self, t, y):
        return -y


def nameless(attribute, word):
    sde = Theirs()
    setattr(sde, attribute, word)
    return sde


MISTAKES = {
    "no calculus": (Incomplete(), {}),
    "unknown calculus": (nameless("sde_type", "itoo"), {}),
    "unknown noise": (nameless("noise_type", "diag"), {}),
    "no diffusion": (nameless("g", None), {"names": {"diffusion": "nothing"}}),
    "y0 is a list": (Theirs(), {"y0": [1.0, 2.0]}),
    "y0 of one axis": (Theirs(), {"y0": torch.ones(2)}),
    "y0 of three axes": (Theirs(), {"y0": torch.ones(1, 1, 2)}),
    "times are a word": (Theirs(), {"ts": "now"}),
    "no times": (Theirs(), {"ts": None}),
    "times are words": (Theirs(), {"ts": ["now", "then"]}),
    "times run backwards": (Theirs(), {"ts": [1.0, 0.0]}),
    "times repeat": (Theirs(), {"ts": [0.0, 0.0]}),
    "a time is missing": (Theirs(), {"ts": [0.0, float("nan")]}),
    "unknown method": (Theirs(), {"method": "rk4"}),
    "milstein of general noise": (Theirs("ito", "general"), {"method": "milstein"}),
    "srk of general noise": (Theirs("ito", "general"), {"method": "srk"}),
    "srk of stratonovich": (Theirs("stratonovich"), {"method": "srk"}),
    "euler of stratonovich": (Theirs("stratonovich"), {"method": "euler"}),
    "heun of ito": (Theirs(), {"method": "heun"}),
    "srk on noise without its integral": (Theirs(), {"method": "srk", "bm": motion("diagonal")}),
    "noise of other series": (Theirs(), {"bm": torchsde.BrownianInterval(0.0, 1.0, size=(4, 2))}),
    "noise of other channels": (Theirs(), {"bm": torchsde.BrownianInterval(0.0, 1.0, size=(3, 5))}),
    "two channels of scalar noise": (Theirs("ito", "scalar"), {"bm": motion("diagonal")}),
    "drift of other states": (Mistaken("f, state"), {}),
    "drift without an axis": (Mistaken("f, axis"), {}),
    "drift of other series": (Mistaken("f, series"), {}),
    "diffusion with an axis too many": (Mistaken("g, axis"), {}),
    "diffusion of other states": (Mistaken("g, state"), {}),
    "diffusion of other series": (Mistaken("g, series"), {}),
    "extra state of one tensor": (
        Theirs("stratonovich"), {"method": "reversible_heun", "extra_solver_state": (torch.ones(3, 2),)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("adjoint", [False, True], ids=["sdeint", "sdeint_adjoint"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_the_same_class_of_error_in_both(mistake, adjoint):
    sde, arguments = MISTAKES[mistake]
    levy = (
        "space-time" if arguments.get("method") == "srk" else "none"
    )  # else torchsde draws from numpy's state
    defaults = {"y0": start(), "ts": TS, "dt": 0.125, "method": "euler", "bm": motion("diagonal", levy)}
    arguments = {**defaults, **arguments}
    if adjoint and not isinstance(sde, torch.nn.Module):
        arguments["adjoint_params"] = ()
    caught = []
    for module in (torchsde, nsde):
        with pytest.raises(Exception) as error:  # noqa: PT011  the class is what is compared
            (module.sdeint_adjoint if adjoint else module.sdeint)(sde, **arguments)
        caught.append(error.value)
    theirs, ours = caught
    assert isinstance(ours, type(theirs))
    assert isinstance(ours, nsde.errors.NeuroSDEError)
    assert ": expected" in str(ours) or " is " in str(ours) or ": " in str(ours)


class Pulled(Theirs):
    """Drift and prior drift differ by a constant, and the noise is constant."""

    def f(self, t, y):
        return self.h(t, y) + 0.8

    def g(self, t, y):
        return torch.full_like(y, 0.4)


def logqp(module, sde, k, method="euler"):
    """One more channel for torchsde, whose wrapper hides a state."""
    path = motion("diagonal", entropy=3)
    if module is torchsde:
        path = torchsde.BrownianInterval(0.0, 1.0, size=(3, 3), dtype=torch.float64, entropy=3)
    return module.sdeint(sde, start(), TS, bm=path, method=method, dt=2.0**-k, logqp=True)[1]


def test_logqp_of_a_constant_gap_is_torchsdes_to_the_last_digits():
    exact = 0.5 * 2 * (0.8 / 0.4) ** 2 * TS.diff().unsqueeze(-1).expand(2, 3)
    for module in (torchsde, nsde):
        assert torch.allclose(logqp(module, Pulled(), 5), exact, rtol=1e-12)


class TwoParameters(Theirs):
    def __init__(self):
        super().__init__("stratonovich")
        self.other = torch.nn.Parameter(torch.tensor(0.2, dtype=torch.float64))

    def f(self, t, y):
        return self.h(t, y) + self.other


def named_gradients(module, sde, **arguments):
    """Gradients of both parameters where the first alone is named."""
    sde.zero_grad()
    call = {"bm": motion("diagonal"), "method": "reversible_heun", "dt": 2.0**-6, **arguments}
    module.sdeint_adjoint(sde, start(), TS, adjoint_params=(sde.theta,), **call).square().sum().backward()
    return sde.theta.grad, sde.other.grad


def test_adjoint_params_get_their_gradient():
    sde = TwoParameters()
    theirs, _ = named_gradients(torchsde, sde, adjoint_method="adjoint_reversible_heun")
    ours, _ = named_gradients(nsde, sde)
    sde.zero_grad()
    kept = nsde.sdeint(sde, start(), TS, bm=motion("diagonal"), method="reversible_heun", dt=2.0**-6)
    kept.square().sum().backward()
    assert float(ours) == pytest.approx(float(sde.theta.grad), rel=1e-10)
    assert float(theirs) == pytest.approx(float(ours), rel=1e-4)


def test_what_is_not_among_adjoint_params_gets_none():
    """torchsde leaks a part of it, through the fields that a reversible solve starts from."""
    assert named_gradients(nsde, TwoParameters())[1] is None


@pytest.mark.parametrize("adjoint", [False, True], ids=["sdeint", "sdeint_adjoint"])
def test_adaptive_steps_take_every_argument(adjoint):
    """Tighter tolerances come nearer to the fine solve of the same path, whatever is said of the adjoint."""
    sde, path = Theirs("stratonovich"), nsde.BrownianPath(0.0, 1.0, (3, 2), seed=1, dtype=torch.float64)
    fine = nsde.sdeint(sde, start(), TS, bm=path, method="heun", dt=2.0**-10)
    integrate, more = nsde.sdeint, {}
    if adjoint:
        integrate = nsde.sdeint_adjoint
        more = {"adjoint_adaptive": True, "adjoint_rtol": 1e-3, "adjoint_atol": 1e-3, "adjoint_options": {}}
    gaps = []
    for tolerance in (1e-1, 1e-4):
        ys = integrate(
            sde, start(), TS, bm=path, method="heun", dt=0.2, adaptive=True, rtol=tolerance, atol=tolerance,
            dt_min=1e-6, **more,
        )  # fmt: skip
        gaps.append(float((ys - fine).detach().abs().max()))
    assert gaps[1] < 0.1 * gaps[0]
    assert gaps[1] < 2e-3
