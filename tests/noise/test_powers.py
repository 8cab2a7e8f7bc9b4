"""Powers of two are exact."""

import math

import pytest
import torch

from neurosde.noise.powers import exponent_of, power_of_two, powers_within

EXPONENTS = torch.arange(-1022, 1024)


def test_powers_and_exponents():
    powers = power_of_two(EXPONENTS)
    assert powers.tolist() == [math.ldexp(1.0, k) for k in EXPONENTS.tolist()]
    assert torch.equal(exponent_of(powers), EXPONENTS)
    assert exponent_of(torch.tensor([1, 8, 2**62])).tolist() == [0, 3, 62]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_gives_the_same_where_its_logarithm_does_not():
    powers = power_of_two(EXPONENTS.cuda())
    assert torch.equal(powers.cpu(), power_of_two(EXPONENTS))
    assert torch.equal(exponent_of(powers).cpu(), EXPONENTS)
    whole = torch.log2(powers).to(torch.int64).cpu()
    assert not torch.equal(whole, EXPONENTS)  # or this file can go


def test_powers_within():
    assert powers_within(torch.tensor([1.0, 1.5, 2.0, 0.3, 2.0**30])).tolist() == [0, 1, 1, -1, 30]
