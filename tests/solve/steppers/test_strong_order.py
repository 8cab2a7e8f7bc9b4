"""Strong orders as fitted slopes, and the limits, which a slope alone does not show."""

import pytest
import torch

from neurosde.noise import BrownianPath
from neurosde.solve import (
    SEA,
    SRA1,
    SRK,
    STEPPERS,
    EulerHeun,
    EulerMaruyama,
    ExponentialEuler,
    ExponentialHeun,
    ExponentialShARK,
    GeneralShARK,
    Heun,
    LieSplitting,
    LogEuler,
    LogODE,
    Midpoint,
    Milstein,
    ReversibleHeun,
    ShARK,
    SlowRK,
    SPaRK,
)

BAND = 0.15
ITO = [EulerMaruyama(), Milstein(), Milstein(derivative_free=True), SRK()]
STRATONOVICH = [EulerHeun(), Heun(), Midpoint(), ReversibleHeun(), GeneralShARK(), SPaRK(), SlowRK()]
COMMUTATIVE = [(s, "ito") for s in ITO] + [
    (s, "stratonovich") for s in (*STRATONOVICH, Milstein(), Milstein(derivative_free=True))
]
ADDITIVE = [*ITO[:2], SRK(), *STRATONOVICH, SEA(), SRA1(), ShARK(), ExponentialEuler(), ExponentialHeun()]
ADDITIVE.append(ExponentialShARK())
LIMIT = {0.5: 0.06, 1.0: 0.03, 1.5: 0.003, 3.0: 1e-7}  # of the error at the finest step


def name(value):
    free = "_derivative_free" if getattr(value, "derivative_free", False) else ""
    return value if isinstance(value, str) else type(value).__name__ + free


def check(lab, errors, exponents, order, limit):
    assert lab.slope(errors, exponents) == pytest.approx(order, abs=BAND)
    assert errors[-1] < limit


def test_every_claim(lab, claim):
    """Scalar, moving additive and non-commuting noise, and the forms of those that need one."""
    sde, noise, start, exact = lab.problem(claim, 1000, 10)
    exponents = range(4, 9) if claim.kind == "additive" else range(3, 8)
    errors = lab.strong_errors(sde, claim.stepper, noise, exponents, start, exact)
    check(lab, errors, exponents, claim.strong, LIMIT[claim.strong])


def test_no_stepper_and_no_claim_is_forgotten(lab):
    held = {(type(claim.stepper), claim.kind) for claim in lab.CLAIMS}
    claimed = {
        (type(s), kind)
        for s in STEPPERS
        for kind, order in zip(lab.KINDS, s.strong_order, strict=True)
        if order is not None
    }
    assert held == claimed
    assert {stepper for stepper, _ in held} == {type(s) for s in STEPPERS}


@pytest.mark.parametrize(("stepper", "calculus"), COMMUTATIVE, ids=name)
def test_diagonal_noise_against_the_exact_path(lab, stepper, calculus):
    sde, noise, exponents = lab.BlackScholes(calculus), lab.noise("space-time", 1000, 2, 10), range(3, 8)
    errors = lab.strong_errors(sde, stepper, noise, exponents, [1.0, 1.0], sde.exact(noise.total))
    check(lab, errors, exponents, stepper.strong_order[1], 0.06)


@pytest.mark.slow
@pytest.mark.parametrize(("stepper", "calculus"), COMMUTATIVE, ids=name)
def test_fields_that_move_in_time(lab, stepper, calculus):
    """Every stage must stand at its own time. The reference of either calculus is that of the other."""
    noise, exponents = lab.noise("space-time", 1000, 1, 10), range(3, 8)
    other = lab.Stretched("stratonovich" if calculus == "ito" else "ito", moving=0.6)
    best = SlowRK() if calculus == "ito" else SRK()
    exact = lab.reference(f"moving {calculus}", other, best, noise, 10, [0.3])
    errors = lab.strong_errors(lab.Stretched(calculus, moving=0.6), stepper, noise, exponents, [0.3], exact)
    check(lab, errors, exponents, stepper.strong_order[1], 0.07)


@pytest.mark.parametrize("stepper", [*STRATONOVICH, Milstein()], ids=name)
def test_channels_that_commute(lab, stepper):
    """Two correlated channels that share both states; Milstein's method meets them one channel at a time."""
    noise_type = "scalar" if isinstance(stepper, Milstein) else "general"
    sde, exponents = lab.BlackScholes("stratonovich", noise_type), range(3, 8)
    noise = lab.noise("space-time", 1000, 1 if noise_type == "scalar" else 2, 10)
    errors = lab.strong_errors(sde, stepper, noise, exponents, [1.0, 1.0], sde.exact(noise.total))
    check(lab, errors, exponents, stepper.strong_order[1], 0.06)


@pytest.mark.parametrize("stepper", ADDITIVE, ids=name)
def test_additive_noise_of_more_channels_than_states(lab, stepper):
    """A matrix of noise: the same limit from both calculi."""
    noise, start = lab.noise("space-time", 300, 2, 9), [0.5]
    exact = lab.reference("wide", lab.Wavy("stratonovich", "additive"), SlowRK(), noise, 9, start)
    error = lab.strong_errors(lab.Wavy(stepper.sde_types[0], "additive"), stepper, noise, [7], start, exact)[
        0
    ]
    assert error < (2e-3 if stepper.strong_order[2] == 1.5 else 0.01)


@pytest.mark.parametrize(
    ("stepper", "calculus"),
    [(Milstein(), "ito"), (SRK(), "ito"), (Milstein(), "stratonovich"), (SlowRK(), "stratonovich")],
    ids=name,
)
def test_diagonal_noise_that_mixes_states_is_general_noise(lab, stepper, calculus):
    """The order falls to 1/2, and the limit stays right."""
    noise, exponents, start = lab.noise("space-time", 1000, 2, 10), range(3, 8), [0.1, 0.2]
    exact = lab.reference("turning", lab.Turning("stratonovich"), SPaRK(), noise, 10, start)
    errors = lab.strong_errors(lab.Turning(calculus, "diagonal"), stepper, noise, exponents, start, exact)
    check(lab, errors, exponents, 0.5, 0.05)


@pytest.mark.parametrize("noise_type", ["general", "diagonal"])
def test_the_log_ode_method_on_noise_that_does_not_commute(lab, noise_type):
    path = BrownianPath(0.0, 1.0, (400, 2), seed=1, levy="area", dtype=torch.float64)
    exponents, start = range(3, 8), [0.1, 0.2]
    exact = lab.reference("turning areas", lab.Turning("stratonovich"), SPaRK(), path, 9, start)
    sde = lab.Turning("stratonovich", noise_type)
    errors = lab.strong_errors(sde, LogODE(), path, exponents, start, exact)
    check(lab, errors, exponents, 0.5, 0.05)
    assert errors[-1] < 0.9 * lab.strong_errors(sde, Midpoint(), path, [7], start, exact)[0]


def test_the_log_ode_method_on_noise_that_commutes(lab):
    path = BrownianPath(0.0, 1.0, (400, 2), seed=1, levy="area", dtype=torch.float64)
    sde, exponents = lab.BlackScholes("stratonovich", "general"), range(3, 8)
    exact = sde.exact(path.increment(0.0, 1.0).W)
    errors = lab.strong_errors(sde, LogODE(), path, exponents, [1.0, 1.0], exact)
    check(lab, errors, exponents, 1.0, 0.06)


@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
@pytest.mark.parametrize("case", ["split", "split, nothing declared", "logarithm"])
def test_proportional_noise(lab, case, calculus):
    noise, exponents = lab.noise("space-time", 1000, 1, 10), range(3, 8)
    if case == "logarithm":
        sde, stepper = lab.Logistic(calculus), LogEuler()
    else:
        sde, stepper = lab.Proportional(calculus, declared=case == "split"), LieSplitting()
    best = SRK() if calculus == "ito" else SlowRK()
    exact = lab.reference(f"{type(sde).__name__} {calculus}", sde, best, noise, 10, [0.5])
    check(lab, lab.strong_errors(sde, stepper, noise, exponents, [0.5], exact), exponents, 1.0, 0.01)


class Forgetful(ShARK):
    """The twin that leaves out the change of g over the step."""

    def step(self, sde, step, y, carry):
        (g,) = carry
        stepped = super().step(sde, step, y, carry)
        change = stepped.carry[0] - g
        return stepped._replace(y=stepped.y - change * (0.5 * step.noise.W - step.noise.H))


def test_without_the_change_of_the_noise_the_order_falls_to_one(lab):
    noise, exponents = lab.noise("space-time", 1000, 1, 10), range(4, 9)
    exact = lab.reference("wavy", lab.Wavy(), ShARK(), noise, 10, [0.5])
    errors = lab.strong_errors(lab.Wavy(), Forgetful(), noise, exponents, [0.5], exact)
    assert lab.slope(errors, exponents) == pytest.approx(1.0, abs=BAND)


class OneSided(Milstein):
    """The twin that takes a difference over sqrt(h) in Stratonovich's calculus, as torchsde does."""

    def step(self, sde, step, y, carry):
        g, root = sde.diffusion(step.t, y), step.h.sqrt()
        slope = (sde.diffusion(step.t, y + g * root) - g) / root
        W = step.noise.W
        ahead = y + step.h * sde.drift(step.t, y) + g * W + 0.5 * slope * W**2
        return super().step(sde, step, y, carry)._replace(y=ahead)


def test_a_one_sided_difference_leaves_order_one_half_in_stratonovichs_calculus(lab):
    sde, noise, exponents = lab.Stretched("stratonovich"), lab.noise("space-time", 1000, 1, 10), range(3, 8)
    errors = lab.strong_errors(sde, OneSided(), noise, exponents, [0.0], sde.exact(noise.total))
    assert lab.slope(errors, exponents) < 0.8
