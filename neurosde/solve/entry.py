"""The one door to the backend: every argument is checked here, before the first step."""

import math
import warnings

import torch

from neurosde.errors import DataError, ShapeError, SolveError
from neurosde.sde import SDE, RunningCost, as_sde
from neurosde.solve import engine
from neurosde.solve.controller import ConstantStep
from neurosde.solve.euler import EulerMaruyama
from neurosde.solve.exponential import ExponentialEuler
from neurosde.solve.grid import check_dt, check_times, make_grid
from neurosde.solve.heun import Heun, ReversibleHeun
from neurosde.solve.solution import Solution, describe_failure
from neurosde.solve.sources import choose_noise
from neurosde.solve.stepper import AbstractStepper, check_stepper
from neurosde.typing import Any, Literal, Sequence, Tensor

STEPPERS: tuple[AbstractStepper, ...] = (EulerMaruyama(), Heun(), ReversibleHeun(), ExponentialEuler())


def solve(
    sde: Any,
    y0: Tensor,
    ts: Any,
    *,
    stepper: AbstractStepper | None = None,
    controller: ConstantStep | None = None,
    noise: Any = None,
    dt: float | Tensor | None = None,
    seed: int | None = None,
    running: Sequence[RunningCost] = (),
    gradient: Literal["backprop", "checkpoint"] = "backprop",
    series: Any = None,
) -> Solution:
    """Solve an SDE, each series on its own times.

    Steps land on the requested times, so every returned state has the law of the path there. A series that
    leaves the finite numbers is frozen and reported; the others, and their gradients, are what they would be
    without it.

    Parameters
    ----------
    sde
        An :class:`~neurosde.SDE`, or any torchsde SDE.
    y0
        States at each series' first time, ``(*batch, state)``.
    ts
        Times asked for, strictly increasing, in the SDE's unit of time: ``(time,)`` for all series, or
        ``(*batch, time)`` padded with NaN at the end. The first is where the series starts.
    stepper
        Numerical method. By default the exact exponential step where the SDE declares a linear part, else
        Euler-Maruyama (Ito) or Heun (Stratonovich).
    controller
        Rule for the steps' lengths; constant by default.
    noise
        Source of noise (:class:`~neurosde.noise.AbstractNoise`), increments ``(step, series, noise)``, or a
        torchsde Brownian motion. By default as ``seed`` says.
    dt
        Longest step, a number or one a series ``(*batch,)``; intervals between times are divided evenly. By
        default a hundredth of each series' span.
    seed
        With a seed, each series follows the Brownian path of (seed, series key), the same at every ``dt``.
        Without one, fresh noise is drawn, which is quicker.
    running
        Costs to accumulate along the paths in the same pass.
    gradient
        "backprop" keeps every step for the way back; "checkpoint" keeps about the square root of them and
        takes the rest again.
    series
        int64 keys of the series for keyed noise, ``(*batch,)``; by default their row numbers.

    Returns
    -------
    Solution
        ``ys`` is ``(*batch, time, state)``.

    Raises
    ------
    DataError, ShapeError
        If an argument cannot be used; the message says which, where, and what to do.
    SolveError
        If the stepper does not fit the SDE.

    Warns
    -----
    RuntimeWarning
        If a series failed; ``solution.raise_if_failed()`` makes it an error.

    Examples
    --------
    >>> import torch
    >>> import neurosde as nsde
    >>> sde = nsde.LinearSDE([[-1.0]], L=[[0.5]])
    >>> solution = nsde.solve(sde, torch.ones(3, 1), [0.0, 0.5, 1.0], dt=0.1, seed=0)
    >>> solution.ys.shape
    torch.Size([3, 3, 1])
    >>> solution.stats["accepted"].tolist()
    [10, 10, 10]
    """
    sde = as_sde(sde)
    y0, batch = _check_state(y0)
    n_series = len(y0)
    times = torch.as_tensor(ts)
    own_clock = times.dim() > 1
    if own_clock and tuple(times.shape[:-1]) != batch:
        raise ShapeError(f"ts: expected (time,) or {(*batch, 'time')}, got {tuple(times.shape)}.")
    times = check_times(times.reshape(n_series, -1) if own_clock else times, n_series, y0.device)
    if controller is not None and not isinstance(controller, ConstantStep):
        raise DataError(f"controller: expected ConstantStep() or None, got {controller!r}.")
    if gradient not in ("backprop", "checkpoint"):
        raise DataError(f"gradient: expected 'backprop' or 'checkpoint', got {gradient!r}.")
    if isinstance(dt, Tensor) and dt.dim():
        dt = dt.reshape(-1)
    grid = make_grid(times, check_dt(dt, times))
    prepared = sde.prepared()
    stepper = _choose(prepared) if stepper is None else _check(stepper, prepared)
    costs = _check_running(running)
    t0 = grid.times[..., 0].to(y0.dtype)
    t0 = t0 if t0.dim() == 0 else t0.unsqueeze(-1)
    n_noise = engine.noise_channels(prepared, t0, y0)
    wrong = engine.check_fields(prepared, t0, y0, n_noise)
    if wrong is not None:
        raise ShapeError(f"sde: {wrong}.")
    keys = None if series is None else torch.as_tensor(series).reshape(-1)
    source = choose_noise(noise, seed, keys, stepper, grid, (n_series, n_noise), y0.dtype)
    problem = engine.Problem(prepared, stepper, source, grid, costs)
    rows, status, good = engine.run(problem, engine.start(problem, y0), recompute=gradient == "checkpoint")
    return _lay_out(rows, times, status, good, stepper, costs, batch, own_clock)


def _lay_out(
    rows: Tensor,
    times: Tensor,
    status: Tensor,
    good: Tensor,
    stepper: AbstractStepper,
    costs: tuple[RunningCost, ...],
    batch: tuple[int, ...],
    own_clock: bool,
) -> Solution:
    """Give the caller's batch axes back, and warn of failures."""
    n_state = rows.shape[-1] - len(costs)
    ys = rows[..., :n_state].unflatten(0, batch) if batch else rows[0, :, :n_state]
    running = {cost.name: rows[..., n_state + i].reshape(*batch, -1) for i, cost in enumerate(costs)}
    stats = {
        "nfe": (good * stepper.evaluations[0]).reshape(batch),
        "accepted": good.reshape(batch),
        "rejected": torch.zeros_like(good).reshape(batch),
    }
    status = status.reshape(batch)
    if bool(status.any()):
        warnings.warn(describe_failure(status), RuntimeWarning, stacklevel=3)
    ts = times.reshape(*batch, -1) if own_clock else times
    return Solution(ts, ys, running, status, stats)


def _check_state(y0: Any) -> tuple[Tensor, tuple[int, ...]]:
    """Initial states as (series, state), and the caller's batch axes."""
    y0 = torch.as_tensor(y0)
    if y0.dim() == 0 or 0 in y0.shape:
        raise ShapeError(
            f"y0: expected (*batch, state) with at least one series and state, got {tuple(y0.shape)}."
        )
    if not y0.dtype.is_floating_point:
        raise DataError(f"y0: expected a floating point tensor, got {y0.dtype}.")
    if not bool(torch.isfinite(y0).all()):
        index = (~torch.isfinite(y0)).nonzero()[0].tolist()
        raise DataError(f"y0{index} is {y0[tuple(index)].item()!r}; expected finite initial states.")
    batch = tuple(y0.shape[:-1])
    return y0.reshape(math.prod(batch), y0.shape[-1]), batch


def _check_running(running: Sequence[RunningCost]) -> tuple[RunningCost, ...]:
    costs = tuple(running)
    names = [cost.name for cost in costs]
    if len(set(names)) < len(names):
        raise DataError(f"running: expected distinct names, got {names}.")
    return costs


def _check(stepper: AbstractStepper, sde: SDE) -> AbstractStepper:
    if not isinstance(stepper, AbstractStepper):
        raise SolveError(f"stepper: expected an instance such as EulerMaruyama(), got {stepper!r}.")
    check_stepper(stepper, sde, STEPPERS)
    return stepper


def _choose(sde: SDE) -> AbstractStepper:
    """Choose the default: the linear part exactly where one is declared, else by calculus."""
    for stepper in (ExponentialEuler(), EulerMaruyama(), Heun()):
        if stepper.why_not(sde) is None:
            return stepper
    raise SolveError(f"stepper: none fits {sde.sde_type} SDEs with {sde.noise_type} noise.")
