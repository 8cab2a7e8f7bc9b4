"""Weak orders as fitted slopes; the exact path rides along on the same noise, so that few paths suffice."""

import pytest
import torch

from neurosde.solve import (
    QUICSORT,
    SEA,
    SRA1,
    SRK,
    EulerHeun,
    EulerMaruyama,
    ExponentialEuler,
    ExponentialHeun,
    ExponentialShARK,
    GeneralShARK,
    Heun,
    LieSplitting,
    LogEuler,
    Midpoint,
    Milstein,
    ReversibleHeun,
    ShARK,
    ShOULD,
    SlowRK,
    SPaRK,
)

BAND = 0.15
EXPONENTS = range(3, 7)
MULTIPLICATIVE = [EulerMaruyama(), Milstein(), SRK(), EulerHeun(), Heun(), Midpoint(), ReversibleHeun()]
MULTIPLICATIVE += [GeneralShARK(), SPaRK(), SlowRK()]
ADDITIVE = [EulerMaruyama(), Heun(), SEA(), SRA1(), ShARK(), ExponentialEuler(), ExponentialHeun()]
ADDITIVE.append(ExponentialShARK())
SECOND_IF_ADDITIVE = [GeneralShARK(), SPaRK(), SlowRK()]


def check(lab, errors, order):
    """A weak order is a least one: the leading error of a test function may vanish."""
    assert lab.slope(errors, EXPONENTS) > order - BAND


@pytest.mark.parametrize("stepper", MULTIPLICATIVE, ids=lambda s: type(s).__name__)
def test_means_under_multiplicative_noise(lab, stepper):
    sde, noise = lab.Stretched(stepper.sde_types[0]), lab.noise("space-time", 12_000, 1, 7)
    exact = sde.exact(noise.total)
    errors = lab.weak_errors(sde, stepper, noise, EXPONENTS, [0.0], exact, lambda y: y)
    check(lab, errors, stepper.weak_order)


@pytest.mark.parametrize("stepper", ADDITIVE, ids=lambda s: type(s).__name__)
def test_second_moments_under_additive_noise(lab, stepper):
    noise = lab.noise("space-time", 12_000, 1, 7)
    exact = lab.reference("wavy, many", lab.Wavy("stratonovich"), SlowRK(), noise, 7, [0.5])
    sde = lab.Wavy(stepper.sde_types[0])
    check(
        lab, lab.weak_errors(sde, stepper, noise, EXPONENTS, [0.5], exact, torch.square), stepper.weak_order
    )


@pytest.mark.parametrize("stepper", SECOND_IF_ADDITIVE, ids=lambda s: type(s).__name__)
def test_additive_noise_makes_it_the_second_order(lab, stepper):
    noise = lab.noise("space-time", 12_000, 1, 7)
    exact = lab.reference("wavy, shark", lab.Wavy(), ShARK(), noise, 7, [0.5])
    sde = lab.Wavy("stratonovich")
    check(lab, lab.weak_errors(sde, stepper, noise, EXPONENTS, [0.5], exact, lambda y: y), 2.0)


@pytest.mark.parametrize("stepper", [LogEuler(), LieSplitting()], ids=lambda s: type(s).__name__)
def test_second_moments_under_proportional_noise(lab, stepper):
    sde = lab.Logistic() if isinstance(stepper, LogEuler) else lab.Proportional()
    noise = lab.noise("space-time", 12_000, 1, 7)
    exact = lab.reference(f"{type(sde).__name__}, many", sde, SRK(), noise, 7, [0.5])
    check(lab, lab.weak_errors(sde, stepper, noise, EXPONENTS, [0.5], exact, torch.square), 1.0)


@pytest.mark.parametrize(("stepper", "other"), [(QUICSORT(), ShOULD()), (ShOULD(), QUICSORT())])
def test_second_moments_of_underdamped_langevin_dynamics(lab, stepper, other):
    noise, start = lab.noise("space-time-time", 400, 1, 9), [0.5, 0.0]
    exact = lab.reference(f"well, {type(other).__name__}", lab.well(), other, noise, 9, start)
    errors = lab.weak_errors(lab.well(), stepper, noise, EXPONENTS, start, exact, torch.square)
    check(lab, errors, 3.0)


def test_eulers_second_moments_are_of_order_one_only(lab):
    """The twin: the problem tells order 1 from order 2."""
    noise = lab.noise("space-time", 12_000, 1, 7)
    exact = lab.reference("wavy, many", lab.Wavy("stratonovich"), SlowRK(), noise, 7, [0.5])
    errors = lab.weak_errors(lab.Wavy(), EulerMaruyama(), noise, EXPONENTS, [0.5], exact, torch.square)
    assert lab.slope(errors, EXPONENTS) < 1.5
