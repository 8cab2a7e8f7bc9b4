"""The adaptive descent is the path itself, whatever is turned down."""

import math

import pytest
import torch
from scipy import stats

from neurosde.noise import BrownianPath
from neurosde.noise.single import SingleStack
from neurosde.noise.stack import DyadicStack, choose

ALPHA = 1e-5


def walk(path, n_clocks, accept, targets=(1.0,), longest=0.25):
    """Go through the path, doubling steps that are taken and halving others; list the steps of each clock."""
    stack = DyadicStack(path, n_clocks)
    pending, k = stack.first, torch.zeros(n_clocks, dtype=torch.int64)
    targets = torch.tensor([*targets, 2.0], dtype=torch.float64)
    step = torch.full((n_clocks,), longest, dtype=torch.float64)
    taken = [[] for _ in range(n_clocks)]
    while bool((k < len(targets) - 1).any()):
        live = k < len(targets) - 1
        goal = torch.where(live, targets[k], 2.0)
        proposal = stack.descend(pending, torch.where(live, step, 1.0), goal, 1)
        ready = live & proposal.ready
        proposal = stack.land(proposal, goal, ready & (proposal.refused.end > goal))
        accepted = ready & (accept(proposal) | (step <= 2.0**-10))
        end = pending.start + proposal.length
        for clock in accepted.nonzero().flatten().tolist():
            row = clock if n_clocks > 1 else slice(None)
            parts = [None if part is None else part[row].clone() for part in proposal.record]
            taken[clock].append((float(pending.start[clock]), float(end[clock]), parts))
        k = k + (accepted & (end == targets[k])).to(torch.int64)
        step = torch.where(ready, torch.where(accepted, (2 * step).clamp(max=longest), step / 2), step)
        pending = choose(accepted, proposal)
    return taken


def walk_alone(path, accept, targets=(1.0,), longest=0.25):
    """The same by the clock in plain Python."""
    stack, step, k, taken = SingleStack(path), longest, 0, []
    pending = stack.first
    while k < len(targets):
        candidate = stack.propose(pending, step, targets[k])
        begin, end = pending.begin, candidate.taken.begin
        if accept() or step <= 2.0**-10:
            taken.append((begin, end, candidate.record))
            pending, step, k = candidate.taken, min(2 * step, longest), k + (end == targets[k])
        else:
            pending, step = candidate.refused, step / 2
    return taken


def coin(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda proposal: torch.rand(len(proposal.length), generator=generator) < 0.7


@pytest.mark.parametrize("levy", ["none", "space-time", "space-time-time"])
@pytest.mark.parametrize("n_clocks", [4, 1, 0], ids=["a clock each", "one clock", "a clock in Python"])
def test_every_step_is_the_paths_own_increment(levy, n_clocks):
    """Also at requested times that are no lattice points, whatever was rejected on the way."""
    path = BrownianPath(0.0, 1.0, (4, 2), seed=1, levy=levy, dtype=torch.float64)
    targets = (0.3, 0.5, 0.71, 1.0)
    if n_clocks:
        taken = walk(path, n_clocks, coin(0), targets)
    else:
        flips = torch.rand(10_000, generator=torch.Generator().manual_seed(0)).tolist()
        taken = [walk_alone(path, lambda: flips.pop() < 0.7, targets)]
    for clock, steps in enumerate(taken):
        assert {0.3, 0.5, 0.71, 1.0} <= {end for _, end, _ in steps}
        for start, end, parts in steps:
            h = end - start
            if h < 2.0**-12:  # there the reference itself loses digits, by differences from the origin
                continue
            increment = path.increment(start, end)
            for part, whole, scale, power in zip(
                parts, increment[1:4], (1, h, h * h), (0.5, 1.5, 2.5), strict=True
            ):
                if part is not None:
                    mine = whole[clock] if n_clocks > 1 else whole
                    assert torch.allclose(part, mine * scale, atol=1e-6 * h**power)


def test_two_policies_meet_at_common_times():
    path = BrownianPath(0.0, 1.0, (3, 1), seed=2, dtype=torch.float64)
    values = []
    for seed, longest in ((0, 0.5), (1, 0.06)):
        steps = walk(path, 3, coin(seed), targets=(0.25, 0.6, 1.0), longest=longest)
        values.append(
            [[sum(p[0] for s, e, p in clock if e <= t) for t in (0.25, 0.6, 1.0)] for clock in steps]
        )
    assert torch.allclose(torch.tensor(values[0]), torch.tensor(values[1]), atol=1e-12)


def test_a_step_costs_one_split(monkeypatch):
    """Accepted steps are the leaves of a binary tree, so splits = accepted - 1, whatever was rejected."""
    path = BrownianPath(0.0, 1.0, (1, 1), seed=3, dtype=torch.float64)
    splits, children = [], SingleStack._children
    monkeypatch.setattr(SingleStack, "_children", lambda *a: splits.append(1) or children(*a))
    flips = torch.rand(10_000, generator=torch.Generator().manual_seed(5)).tolist()
    steps = walk_alone(path, lambda: flips.pop() < 0.7, longest=1.0)
    assert len(splits) == len(steps) - 1


def test_rejections_that_look_at_the_path_do_not_bias_it():
    """Reject where |W| > 1.2 sqrt(h); the twin that draws afresh after a rejection has .4 of the variance."""
    n = 6_000
    path = BrownianPath(0.0, 1.0, (n, 1), seed=4, dtype=torch.float64)

    def small(proposal):
        return proposal.record.W.squeeze(-1).abs() <= 1.2 * proposal.length.sqrt()

    steps = walk(path, n, small, targets=(0.5, 1.0))
    end = torch.stack([sum(p[0] for _, _, p in clock) for clock in steps]).flatten()
    half = torch.stack([sum(p[0] for _, e, p in clock if e <= 0.5) for clock in steps]).flatten()
    quantile = stats.norm.isf(ALPHA / 4)
    assert abs(float(end.var()) - 1) < quantile * math.sqrt(2 / n)
    assert abs(float(half.var()) / 0.5 - 1) < quantile * math.sqrt(2 / n)
    fresh = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    twin = fresh[fresh.abs() <= 1.2]
    assert abs(float(twin.var()) - 1) > 0.4


def test_a_clock_alone_is_a_clock_in_a_batch():
    keys = torch.tensor([4, 9, 2])
    batch = walk(
        BrownianPath(0.0, 1.0, (3, 1), seed=0, series=keys, dtype=torch.float64), 3, lambda p: p.length > 0
    )
    alone = walk(
        BrownianPath(0.0, 1.0, (1, 1), seed=0, series=keys[1:2], dtype=torch.float64),
        1,
        lambda p: p.length > 0,
    )
    assert all(
        torch.equal(a[2][0].flatten(), b[2][0].flatten()) for a, b in zip(batch[1], alone[0], strict=True)
    )
