"""How deep a series' tree is depends on the series alone, and seldom on the steps that are taken."""

import pytest
import torch

from neurosde.errors import DataError, ShapeError
from neurosde.noise import BrownianPath
from neurosde.noise.brownian import powers_within
from neurosde.noise.stack import DyadicStack, choose
from neurosde.solve.sources import path_over

LEVIES = ["none", "space-time", "space-time-time", "area"]
KEYS = torch.tensor([3, -8, 2**45, 17])
TIMES = torch.tensor([0.0, 0.1, 0.3, 0.70001, 1.0], dtype=torch.float64)
TOLERANCES = torch.tensor([2.0**-16, 2.0**-3, 2.0**-24, 2.0**-37], dtype=torch.float64)


def path(rows, levy="none", tol=TOLERANCES, dtype=torch.float64):
    start = torch.arange(4, dtype=torch.float64)[rows]
    return BrownianPath(
        start, start + 1, (len(rows), 3), seed=1, levy=levy, tol=tol[rows], series=KEYS[rows], dtype=dtype
    )


def times(rows):
    return torch.arange(4, dtype=torch.float64)[rows].unsqueeze(-1) + TIMES


def same(batch, alone, row):
    pairs = zip(batch[1:], alone[1:], strict=True)
    return all(a is None or torch.equal(a[:, row : row + 1], b) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levy", LEVIES)
def test_a_series_alone_is_the_series_among_others_of_other_depths(levy, dtype):
    """Bit for bit; 200 copies of the batch fall into several runs of series."""
    rows = [0, 1, 2, 3] * 200
    batch = path(rows, levy, dtype=dtype).increments(times(rows))
    for row in range(4):
        alone = path([row], levy, dtype=dtype).increments(times([row]))
        assert same(batch, alone, row)
        assert same(batch, alone, 4 * 199 + row)


def test_one_depth_for_all_would_be_noticed():
    """The twin: the deepest tree for everyone moves the neighbours off the lattice."""
    deepest = torch.full((4,), 2.0**-37, dtype=torch.float64)
    mine, theirs = (
        path([0, 1, 2, 3], tol=tol).increments(times([0, 1, 2, 3])).W for tol in (TOLERANCES, deepest)
    )
    moved = (mine - theirs).abs().amax((0, 2))
    assert bool((moved[:3] > 1e-5).all())
    assert float(moved[3]) == 0.0


@pytest.mark.parametrize("levy", LEVIES[:3])
def test_a_clock_alone_is_a_clock_among_others_of_other_depths(levy):
    """Down to times inside leaves, and between them."""

    def walk(rows):
        stack = DyadicStack(path(rows, levy), len(rows))
        pending, records = stack.first, []
        for target in TIMES[1:].tolist():
            goal = torch.full((len(rows),), target, dtype=torch.float64)
            for _ in range(60):
                proposal = stack.descend(pending, torch.full_like(goal, 0.25), goal, 1)
                ahead = proposal.ready & (pending.start < goal)
                proposal = stack.land(proposal, goal, ahead & (proposal.refused.end > goal))
                records.append([x * ahead[:, None] for x in proposal.record if x is not None])
                pending = choose(ahead, proposal)
        return [torch.stack(parts) for parts in zip(*records, strict=True)]

    batch = walk([0, 1, 2, 3])
    for row in range(4):
        for mine, theirs in zip(batch, walk([row]), strict=True):
            assert torch.equal(mine[:, row : row + 1], theirs)


@pytest.mark.parametrize("levy", LEVIES[:3])
def test_a_path_over_times_is_one_path_at_nearly_all_steps(levy):
    """Off the lattice as well, at steps longer than 2**-15 of the span, and at all from there to 2**-23."""
    ends = torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=torch.float64)

    def between(step):
        grid = torch.cat((ends, 0.3 + torch.tensor([step, 2 * step], dtype=torch.float64))).sort().values
        return path_over(grid, 5, None, levy, (2, 2), torch.float64).increments(ends)

    values = [between(step) for step in (0.01, 2.0**-14, 2.0**-16, 2.0**-22, 2.0**-25)]
    for one, two, equal in zip(values[:-1], values[1:], (True, False, True, False), strict=True):
        for a, b in zip(one[1:4], two[1:4], strict=True):
            assert a is None or torch.equal(a, b) == equal


def test_the_depth_of_a_path_over_times_follows_its_closest_times():
    gaps = [0.3, 2.0**-15, 2.0**-15 * 0.999, 1e-6, 2.0**-23, 1e-8, 1e-11, 1e-14]
    own = torch.tensor([[0.0, gap, 1.0] for gap in gaps], dtype=torch.float64)
    levels = path_over(own, 0, None, "none", (len(gaps), 1), torch.float64).levels
    assert levels.tolist() == [16, 16, 24, 24, 24, 32, 40, 40]
    for row, depth in zip(own, levels.tolist(), strict=True):
        alone = path_over(row.unsqueeze(0), 0, None, "none", (1, 1), torch.float64)
        assert alone.levels == depth
    assert path_over(own[:1, :1], 0, None, "none", (1, 1), torch.float64).levels == 16


def test_powers_within_are_exact():
    ratios = torch.tensor(
        [0.5, 1.0, 1.0 + 2.0**-52, 2.0, 3.0, 2.0**40, 2.0**40 * (1 + 2.0**-52)], dtype=torch.float64
    )
    assert powers_within(ratios).tolist() == [-1, 0, 1, 1, 2, 40, 41]


def test_leaves_of_one_length_are_as_many_as_each_span_needs():
    ends = torch.tensor([1.0, 1000.0], dtype=torch.float64)
    both = BrownianPath(torch.zeros(2), ends, (2, 1), seed=0, tol=1e-3)
    assert both.levels.tolist() == [10, 20]
    alone = BrownianPath(torch.zeros(1), ends[:1], (1, 1), seed=0, tol=1e-3)
    assert torch.equal(both.increment(torch.zeros(2), ends / 3).W[:1], alone.increment(0.0, 1 / 3).W)


def test_leaves_that_fit_no_series_are_refused():
    with pytest.raises(ShapeError, match="tol: expected a number or one a series"):
        BrownianPath(0.0, 1.0, (2, 1), seed=0, tol=torch.ones(2))
    with pytest.raises(DataError, match="tol: expected a positive length"):
        BrownianPath(torch.zeros(2), torch.ones(2), (2, 1), seed=0, tol=torch.tensor([0.1, -0.1]))
    with pytest.raises(DataError, match=r"step \[1, 0\] .* at least 2\*\*-3 of it apart"):
        path([0, 1]).increment(torch.tensor([0.3, 1.3]), torch.tensor([0.301, 1.301]))
