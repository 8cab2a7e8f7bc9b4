"""Steps far shorter than the span, and times a rounding beside the lattice: K keeps its law."""

import math

import pytest
import torch

from neurosde.noise import BrownianPath
from neurosde.noise.records import Scaled, cut, difference, interpolate, join
from neurosde.noise.shares import make_shares
from neurosde.noise.single import SingleStack

LAW = torch.tensor([1.0, 1 / 12, 1 / 720], dtype=torch.float64)
LEVIES = {"none": 1, "space-time": 2, "space-time-time": 3}


def correlations(u, levels, n_parts):
    """Exact covariance of (W, H, K) over ``[u0, u1]`` in units of their law: sums of products of shares."""
    table = make_shares(u.view(-1, 1), levels, n_parts)
    start, end = table.from_start[:, :, :, 0, 0], table.from_end[:, :, :, 0, 0]
    one_node = table.node[:, 0, 0] == table.node[:, 1, 0]
    both = [torch.where(one_node, start + end, 0.0), *(torch.where(one_node, 0.0, x) for x in (start, end))]
    covariance = sum(torch.einsum("pnr,qnr->pq", x, x) for x in both)
    law = LAW[:n_parts] * (u[1] - u[0])
    return covariance / (law * law.unsqueeze(-1)).sqrt()


def departure(u, levels, n_parts):
    return float((correlations(u, levels, n_parts) - torch.eye(n_parts, dtype=u.dtype)).abs().max())


@pytest.mark.parametrize("n_parts", [2, 3])
@pytest.mark.parametrize("levels", [16, 24, 40])
def test_the_exact_law_at_all_lengths_down_to_a_leaf(levels, n_parts):
    generator = torch.Generator().manual_seed(levels)
    for length in (10.0 ** -torch.arange(1.0, 12.0, dtype=torch.float64)).tolist():
        if length < 2.0 ** (1 - levels):
            break
        for start in torch.rand(20, generator=generator, dtype=torch.float64).tolist():
            u = torch.tensor([0.0, length], dtype=torch.float64) + start * (1 - length)
            assert departure(u, levels, n_parts) < 1e-14


@pytest.mark.parametrize("n_parts", [2, 3])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_exact_law_beside_a_point_of_the_lattice(side, n_parts):
    """Steps a small part of a leaf, and steps that start or end just beside the lattice."""
    for near in (10.0 ** -torch.arange(1.0, 13.0, dtype=torch.float64)).tolist():
        point, beside = 345 / 1024, (345 + side * near) / 1024
        for other in (point, 0.1, 0.9):
            u = torch.tensor(sorted((beside, other)), dtype=torch.float64)
            assert departure(u, 10, n_parts) < 1e-14


def test_a_cut_from_the_left_alone_would_be_noticed():
    """The twin: K of what is left behind a late cut by difference, from a factor that has lost its digits."""
    p, z = torch.tensor([0.9999], dtype=torch.float64), torch.eye(3, dtype=torch.float64).unsqueeze(1)
    nothing = Scaled(*torch.zeros(3, 3, 1, dtype=torch.float64))
    one = torch.ones_like(p)
    by_difference = difference(interpolate(nothing, p, z), p, nothing, one).K
    drawn = cut(nothing, p, z)[1].K
    law = (1e-4) ** 5 / 720
    assert float(drawn.square().sum()) / law == pytest.approx(1.0, abs=1e-6)
    assert abs(float(by_difference.square().sum()) / law - 1) > 1


@pytest.mark.parametrize("p", [1e-12, 1e-3, 0.3, 0.5, 0.5 + 1e-12, 0.9, 1 - 1e-3, 1 - 2.0**-40])
def test_both_parts_of_a_cut_are_the_whole_and_have_the_law_of_steps(p):
    basis = torch.eye(6, dtype=torch.float64).unsqueeze(1)  # three for the parent, three for the cut
    parent = Scaled(*(basis[..., i] * LAW[i].sqrt() for i in range(3)))
    fraction = torch.tensor([p], dtype=torch.float64)
    left, right = cut(parent, fraction, basis[..., 3:])
    for mine, whole in zip(join(left, fraction, right, 1 - fraction), parent, strict=True):
        assert torch.allclose(mine, whole, atol=1e-15)
    lengths = (fraction, 1 - fraction)
    z = torch.stack(
        [
            (x / (law * h ** (2 * i + 1)).sqrt()).flatten()
            for part, h in zip((left, right), lengths, strict=True)
            for i, (x, law) in enumerate(zip(part, LAW, strict=True))
        ]
    )
    assert torch.allclose(z @ z.T, torch.eye(6, dtype=torch.float64), atol=1e-12)


def test_the_path_is_the_same_on_both_sides_of_a_leafs_middle():
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parent = Scaled(z[3:, 0], z[3:, 1], z[3:, 2])
    sides = [cut(parent, torch.tensor(p, dtype=torch.float64), z[:3]) for p in (0.5, 0.5 + 1e-15)]
    for mine, other in zip(sum(sides[0], ()), sum(sides[1], ()), strict=True):
        assert torch.allclose(mine, other, atol=1e-12)


@pytest.mark.parametrize("levy", LEVIES)
@pytest.mark.parametrize("length", [1e-3, 1e-6, 1e-8, 1e-10])
def test_short_steps_add_up_and_are_those_of_the_stack(levy, length):
    """All pieces up to three requested times, from the sums over the tree and from the descent."""
    path = BrownianPath(0.0, 1.0, (20, 2), seed=2, levy=levy, tol=1e-11, dtype=torch.float64)
    start = 0.7123
    times = torch.tensor([start, start + 0.37 * length, start + length], dtype=torch.float64)
    rough = 1e-14 if levy == "none" else 0.0  # where W is alone it is a difference of the path's own values
    stack, ends, records = SingleStack(path), [0.0], []
    pending = stack.first
    for target in times.tolist():
        while ends[-1] < target:
            proposal = stack.propose(pending, 1.0, target)
            pending = proposal.taken
            ends.append(pending.begin)
            records.append(proposal.record)
    for begin, end, record in zip(ends[:-1], ends[1:], records, strict=True):
        h = end - begin
        for mine, theirs in zip(scaled(path.increment(begin, end), h), record, strict=True):
            assert mine is None or torch.allclose(mine, theirs, rtol=0.0, atol=rough + 1e-12 * largest(mine))
    parts, whole = path.increments(times), path.increment(start, times[2])
    h = times.diff()
    joined = join(scaled(parts.at(0), h[0]), h[0], scaled(parts.at(1), h[1]), h[1])
    for mine, theirs in zip(joined, scaled(whole, h.sum()), strict=True):
        assert mine is None or torch.allclose(mine, theirs, rtol=0.0, atol=rough + 1e-12 * largest(theirs))


def scaled(record, h):
    return Scaled(
        record.W, None if record.H is None else h * record.H, None if record.K is None else h * h * record.K
    )


def largest(part):
    return float(part.abs().max())


def test_a_time_a_rounding_below_the_lattice_is_the_time_on_it():
    """Once it ruined the K of every step that met it: by 1e146."""
    path = BrownianPath(0.0, 1.0, (50, 2), seed=0, levy="space-time-time", dtype=torch.float64)
    below = math.nextafter(0.25, 0.0)
    for name in "WHK":
        exact = [getattr(path.increment(a, b), name) for a, b in ((0.1, 0.25), (0.25, 0.4))]
        beside = [getattr(path.increment(a, b), name) for a, b in ((0.1, below), (below, 0.4))]
        for one, two in zip(exact, beside, strict=True):
            assert torch.allclose(one, two, atol=1e-6)
