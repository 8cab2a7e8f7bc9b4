"""Weak orders as fitted slopes; the exact path rides along on the same noise, so that few paths suffice."""

import math

import torch

from neurosde.solve import STEPPERS, EulerMaruyama, SlowRK

BAND = 0.15


def mean(y):
    return y.mean(-1)


def logarithm(y):
    return y.mean(-1).log()


def square_of_sum(y):
    return y.sum(-1).square()


def test_every_claim(lab, claim):
    """The slope of |E F(y) - E F(y_h)|, at least the order: the leading error of a function may vanish.

    F is the square. The logarithm for the methods that step it, and y itself where their noise mixes states,
    at longer steps, for the noise of 12 000 paths hides the bias of short ones. Also y itself under scalar
    noise, and under additive noise of methods for any noise, for whom the square's error is too small.
    """
    sde, noise, start, exact = lab.problem(claim, 12_000, 7)
    proportional, general = isinstance(sde, lab.Growth), claim.kind == "general"
    exponents = (range(2, 6) if proportional else range(1, 5)) if general else range(3, 7)
    second = claim.kind == "additive" and type(claim.stepper).__name__ in lab.SECOND_IF_ADDITIVE
    function = logarithm if proportional and not general else square_of_sum
    if second or isinstance(sde, lab.Stretched) or (proportional and general):
        function = mean
    errors = lab.weak_errors(sde, claim.stepper, noise, exponents, start, exact, function)
    if math.isinf(claim.weak):  # the law is exact: what is left is that of the paths, and of the reference
        assert max(errors) < 1e-6
    else:
        assert lab.slope(errors, exponents) > claim.weak - BAND


def test_no_stepper_is_forgotten(lab):
    assert {type(claim.stepper) for claim in lab.CLAIMS} == {type(stepper) for stepper in STEPPERS}


def test_eulers_second_moments_are_of_order_one_only(lab):
    """The twin: the problem tells order 1 from order 2."""
    noise = lab.noise("space-time", 12_000, 1, 7)
    exact = lab.reference("wavy, many", lab.Wavy("stratonovich"), SlowRK(), noise, 7, [0.5])
    errors = lab.weak_errors(lab.Wavy(), EulerMaruyama(), noise, range(3, 7), [0.5], exact, torch.square)
    assert lab.slope(errors, range(3, 7)) < 1.5
