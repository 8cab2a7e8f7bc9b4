"""Every stepper meets the limit of its calculus, and conversion leads to the limit of the other."""

import math

import pytest
import torch
from scipy import stats

from neurosde.calculus import to_ito, to_stratonovich
from neurosde.solve import SRK, STEPPERS, Milstein, SlowRK

FINEST, N = 7, 1000
OTHER = {"ito": "stratonovich", "stratonovich": "ito"}
CONVERT = {"ito": to_ito, "stratonovich": to_stratonovich}
MULTIPLICATIVE = [
    (stepper, calculus)
    for stepper in (*STEPPERS, Milstein(derivative_free=True))
    for calculus in stepper.sde_types
    if stepper.strong_order[:2] != (None, None)
]
ADDITIVE = [stepper for stepper in STEPPERS if stepper.strong_order[:2] == (None, None)]
QUANTILE = stats.norm.isf(1e-5 / 2 / (3 * len(MULTIPLICATIVE)))  # false alarms of the whole file: 1e-5


def name(value):
    free = "_derivative_free" if getattr(value, "derivative_free", False) else ""
    return value if isinstance(value, str) else type(value).__name__ + free


def gap(lab, sde, stepper, exact):
    """How far y at step 2^-6 is from the exact one.

    Of the mean, in standard errors beyond what is left of h: twice the step doubles a bias of order one at
    least, so that the change is a bound of what is left. Of the paths, as the part of the error at step 2^-4
    that remains: a half by order 1/2, all of it at a wrong limit.
    """
    noise = lab.carrying(lab.noise("space-time", N, 1, FINEST), stepper)
    coarse, half, fine = (lab.end(sde, stepper, noise, k, [0.5]) - exact for k in (4, 5, 6))
    left = float((fine - half).mean().abs())
    beyond = max(0.0, float(fine.mean().abs()) - left) / (float(fine.std()) / math.sqrt(N))
    return beyond, float(fine.abs().mean() / coarse.abs().mean())


def meets(gap):
    return gap[0] < QUANTILE and gap[1] < 0.7


def truth(lab, process):
    """States at time 1 of the fields read in a calculus, from the drift rewritten on paper."""
    noise = lab.noise("space-time", N, 1, FINEST)
    sde = lab.Growth("commutative", "stratonovich", process)
    return lab.reference(f"growth of {process} fields", sde, SlowRK(), noise, FINEST, [0.5])


@pytest.mark.parametrize(("stepper", "calculus"), MULTIPLICATIVE, ids=name)
def test_the_limit_is_that_of_the_calculus_and_conversion_leads_to_the_other(lab, stepper, calculus):
    fields, other = lab.Growth("commutative", calculus), OTHER[calculus]
    assert meets(gap(lab, fields, stepper, truth(lab, calculus)))
    beyond, remains = gap(lab, fields, stepper, truth(lab, other))  # the twin: under the other name
    assert beyond > 2 * QUANTILE
    assert remains > 0.9
    converted = CONVERT[calculus](lab.Growth("commutative", other))
    if stepper.why_not(converted) is not None:  # a converted SDE has lost its form and its linear part
        converted, stepper = CONVERT[other](fields), SRK() if other == "ito" else SlowRK()
        other = calculus
    assert meets(gap(lab, converted, stepper, truth(lab, other)))


@pytest.mark.parametrize("stepper", ADDITIVE, ids=name)
def test_additive_noise_has_one_limit(lab, stepper):
    """Bit for bit the same under either name."""
    claim = next(claim for claim in lab.CLAIMS if claim.stepper is stepper)
    sde, noise, start, _ = lab.problem(claim, 50, 5)
    ends = []
    for calculus in OTHER:
        sde.sde_type = calculus
        ends.append(lab.end(sde, stepper, noise, 4, start))
    assert torch.equal(*ends)


@pytest.mark.parametrize("noise_type", ["scalar", "diagonal", "general"])
def test_conversion_of_every_noise_type_against_the_exact_path(lab, noise_type):
    """Both calculi of geometric Brownian motion have their own closed forms."""
    noise = lab.noise("space-time", N, 1 if noise_type == "scalar" else 2, FINEST)
    pairs = [("stratonovich", SlowRK()), ("ito", SRK())]
    for calculus, stepper in pairs[: 1 if noise_type == "general" else 2]:  # there Ito's have order 1/2 only
        sde = lab.BlackScholes(OTHER[calculus], noise_type)
        exact, wrong = (lab.BlackScholes(c, noise_type).exact(noise.total) for c in (sde.sde_type, calculus))
        end = lab.end(CONVERT[calculus](sde), stepper, noise, FINEST, [1.0, 1.0])
        assert float((end - exact).abs().mean()) < 4e-3
        assert float((end - wrong).abs().mean()) > 0.1
