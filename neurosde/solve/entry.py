"""The one door to the backend: every argument is checked here, before the first step."""

import dataclasses
import math
import reprlib
import warnings
from collections.abc import Iterable

import torch

from neurosde.arguments import as_count, as_numbers
from neurosde.errors import DataError, ShapeError, SolveError
from neurosde.noise import AbstractNoise
from neurosde.noise.arguments import as_series
from neurosde.sde import SDE, RunningCost, as_sde
from neurosde.solve.absorbing import AbsorbingSet, absorber_of
from neurosde.solve.adaptive import StepSearch, with_jumps
from neurosde.solve.choice import check_stepper, choose_stepper
from neurosde.solve.compiling import MODES, Compile
from neurosde.solve.controller import ConstantStep, PIController
from neurosde.solve.engine import looks_itself
from neurosde.solve.gradients import GRADIENTS, Gradient, take_penalised
from neurosde.solve.grid import TimeGrid, as_times, check_dt, check_times, make_grid
from neurosde.solve.heun import ReversibleHeun
from neurosde.solve.linear_part import check_linear_part
from neurosde.solve.looking import is_finite, look, look_at_costs
from neurosde.solve.march import Model
from neurosde.solve.penalty import StepPenalty
from neurosde.solve.problem import Outcome, Problem
from neurosde.solve.shared_clock import SharedSearch
from neurosde.solve.solution import Solution, describe_failure
from neurosde.solve.sources import GivenNoise, choose_noise, choose_path
from neurosde.solve.stepper import AbstractStepper, Carry
from neurosde.typing import Any, Sequence, Tensor


@dataclasses.dataclass(frozen=True)
class Options:
    """How to solve: the arguments of :func:`solve` beside the SDE, the states and the times."""

    stepper: AbstractStepper | None = None
    controller: ConstantStep | PIController | None = None
    noise: Any = None
    dt: float | Tensor | None = None
    seed: int | None = None
    running: Sequence[RunningCost] = ()
    penalty: StepPenalty | None = None
    gradient: Gradient = "backprop"
    compile: Compile = "auto"
    max_steps: int = 4096
    series: Any = None
    absorbing: AbsorbingSet | None = None


def solve(
    sde: Any, y0: Tensor, ts: Any, *, stepper: AbstractStepper | None = None,
    controller: ConstantStep | PIController | None = None, noise: Any = None,
    dt: float | Tensor | None = None, seed: int | None = None, running: Sequence[RunningCost] = (),
    penalty: StepPenalty | None = None, gradient: Gradient = "backprop", compile: Compile = "auto",
    max_steps: int = 4096, series: Any = None, absorbing: AbsorbingSet | None = None,
) -> Solution:  # fmt: skip
    """Solve an SDE, each series on its own times.

    Steps land on the requested times, so every returned state has the law of the path there. A series that
    leaves the finite numbers is frozen and reported; the others, and their gradients, are as without it.

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
        Numerical method. By default the one that knows the SDE's form (a declared linear part, geometric or
        Langevin dynamics), else Euler-Maruyama (Ito) or Heun (Stratonovich).
    controller
        Constant steps by default, or a :class:`~neurosde.solve.PIController`: such a solve finds its steps
        first and takes them again, as a fixed grid, for the gradient.
    noise
        Source of noise (:class:`~neurosde.noise.AbstractNoise`), increments ``(step, series, noise)``, or a
        torchsde Brownian motion. By default as ``seed`` says.
    dt
        Longest step, a number or one a series ``(*batch,)``; intervals between times are divided evenly. By
        default a hundredth of each series' span; of a :class:`~neurosde.LinearSDE` the whole interval, for
        its steps are exact in law, unless costs or an absorbing set are followed along them.
    seed
        With a seed, each series follows the Brownian path of (seed, series key), the same at every ``dt`` and
        tolerance. Without one, fresh noise is drawn, which is quicker.
    running
        Costs to accumulate along the paths in the same pass.
    penalty
        Measure of the solver's effort to return with the solution; see :class:`~neurosde.solve.StepPenalty`.
    gradient
        "backprop" keeps every step for the way back; "checkpoint" about the square root of them; "reversible"
        keeps none and undoes them, for Stratonovich SDEs that are not strongly dissipative; "adjoint" solves
        the adjoint SDE, with an error of the steps' order. The last two reach ``y0`` and what
        ``sde.dependencies()`` names.
    compile
        "off", "chunk" (compile runs of steps), or "auto": compile once as much time has been spent on one
        kind of SDE as compiling costs. On a GPU both record steps that have no gradient as CUDA graphs; only
        with "off" are the fields called step by step, which counts if they do more than compute.
    max_steps
        Attempts after which a series of an adaptive solve gives up.
    series
        int64 keys of the series for keyed noise, ``(*batch,)``; by default their row numbers.
    absorbing
        Where series stop, crossings within steps included; see :class:`~neurosde.solve.AbsorbingSet`. They
        stay there, with success, and ``Solution.exit_time`` and ``exit_barrier`` tell when and where.

    Returns
    -------
    Solution
        ``ys`` is ``(*batch, time, state)``; a failed series warns, ``raise_if_failed()`` makes it an error.

    Raises
    ------
    DataError, ShapeError, SolveError
        If an argument cannot be used; the message says which, where, and what to do.

    Examples
    --------
    >>> import torch, neurosde as nsde
    >>> sde = nsde.LinearSDE([[-1.0]], L=[[0.5]])
    >>> nsde.solve(sde, torch.ones(3, 1), [0.0, 0.5, 1.0], dt=0.1, seed=0).ys.shape
    torch.Size([3, 3, 1])
    """
    options = Options(
        stepper, controller, noise, dt, seed, running, penalty, gradient, compile, max_steps, series,
        absorbing,
    )  # fmt: skip
    return solve_with_carry(sde, y0, ts, options)[0]


def solve_with_carry(
    sde: Any, y0: Tensor, ts: Any, options: Options, carry: Carry | None = None
) -> tuple[Solution, Carry]:
    """Do what :func:`solve` does, from and to what the stepper carries beside the state."""
    y0, batch = _check_state(y0)
    ts = as_times(ts)
    own_clock = ts.dim() > 1
    if own_clock and tuple(ts.shape[:-1]) != batch:
        raise ShapeError(f"ts: expected (time,) or {(*batch, 'time')}, got {tuple(ts.shape)}.")
    times = check_times(ts.reshape(len(y0), -1) if own_clock else ts, len(y0), y0.device)
    _check_words(gradient=(options.gradient, GRADIENTS), compile=(options.compile, MODES))
    adaptive = _is_adaptive(options.controller, options.dt, own_clock)
    as_count("max_steps", options.max_steps)
    _check_penalty(options.penalty)
    prepared, costs, penalty = as_sde(sde).prepared(), _check_running(options.running), options.penalty
    stepper = _stepper(options, prepared, adaptive or penalty is not None)
    model = Model(prepared, stepper, costs, penalty if penalty and penalty.sample == "all" else None)
    t0 = times[..., 0].to(y0.dtype)
    t0 = t0 if t0.dim() == 0 else t0.unsqueeze(-1)
    n_default = 1 if _is_exact(stepper, options) else 100
    grid = None if adaptive else make_grid(times, check_dt(options.dt, times, n_default))
    n_noise, flows = _look(model, options, t0, y0, grid)
    shape, flows = (len(y0), n_noise), torch.is_grad_enabled() and (flows or y0.requires_grad)
    keys = _check_keys(options.series, len(y0), y0.device)
    given = (options.noise, options.seed, keys, stepper)
    if isinstance(options.controller, PIController):
        shared = options.controller.whole_batch
        clocks = torch.atleast_2d(times).expand(1 if shared else len(y0), -1)
        every, columns = with_jumps(clocks, options.controller.jump_times)
        path = choose_path(*given, every[0] if shared else every, shape, y0.dtype)
        model = _until_exit(model, options, path, keys, t0, y0)
        replayed = flows or bool(costs) or penalty is not None
        what = (model, options.controller, path)
        search = StepSearch(*what, every, options.max_steps, options.compile)
        # where one clock may be looked at as often as it likes, plain numbers are quicker than masks
        plain = shared and model.absorbing is None and y0.device.type == "cpu"
        if plain and not search.loops(y0, keep=replayed):
            steps = SharedSearch(*what, every[0], options.max_steps, options.compile).run(y0.detach(), carry)
        else:
            steps = search.run(y0.detach(), carry, keep=replayed)
        outcome = steps.outcome(columns)
        if replayed:
            noise, taken = GivenNoise(steps.increments), steps.grid_of(columns)
            replay = Problem(model, noise, taken, options.compile, carry, flows)
            outcome = outcome.seen_again(take_penalised(replay, y0, options.gradient, penalty))
    else:
        assert grid is not None
        noise = choose_noise(*given, grid, shape, y0.dtype)
        model = _until_exit(model, options, noise, keys, t0, y0)
        problem = Problem(model, noise, grid, options.compile, carry, flows)
        outcome = take_penalised(problem, y0, options.gradient, penalty)
    return _lay_out(outcome, times, model, batch, own_clock), outcome.carry


def _until_exit(
    model: Model, options: Options, noise: AbstractNoise, keys: Tensor | None, t0: Tensor, y0: Tensor
) -> Model:
    """The model with its absorbing set, if there is one."""
    if options.absorbing is None:
        return model
    absorber = absorber_of(options.absorbing, noise, keys, t0, y0)
    if options.gradient in ("reversible", "adjoint"):
        raise DataError(
            "absorbing: an exit cannot be undone, so its gradient needs the steps; use gradient='checkpoint'."
        )
    if options.penalty is not None:
        raise DataError("absorbing: a penalty is not measured of series that stop; give one of the two.")
    return model._replace(absorbing=absorber)


def _stepper(options: Options, sde: SDE, adaptive: bool) -> AbstractStepper:
    """The stepper of the solve: the caller's, checked, or the default."""
    stepper = options.stepper
    if options.gradient in ("reversible", "adjoint") and options.running:
        raise DataError("running: costs need a gradient that keeps the steps; use gradient='checkpoint'.")
    if options.gradient == "reversible":
        if stepper is not None and not isinstance(stepper, ReversibleHeun):
            name = type(stepper).__name__
            raise SolveError(f"gradient='reversible' undoes ReversibleHeun steps; got {name}.")
        stepper = ReversibleHeun()
    return choose_stepper(sde, adaptive) if stepper is None else check_stepper(stepper, sde, adaptive)


def _check_words(**given: tuple[str, Sequence[str]]) -> None:
    for name, (word, known) in given.items():
        if word not in known:
            raise DataError(f"{name}: expected one of {', '.join(known)}, got {word!r}.")


def _is_adaptive(controller: Any, dt: Any, own_clock: bool) -> bool:
    if controller is None or isinstance(controller, ConstantStep):
        return False
    if not isinstance(controller, PIController):
        raise DataError(
            f"controller: expected ConstantStep(), PIController(...) or None, got {controller!r}."
        )
    if dt is not None:
        raise DataError("dt: an adaptive solve finds its steps; give PIController(first=...) for the first.")
    if controller.whole_batch and own_clock:
        raise DataError("controller: whole_batch=True needs times that all series share.")
    return True


def _look(model: Model, options: Options, t0: Tensor, y0: Tensor, grid: TimeGrid | None) -> tuple[int, bool]:
    """Check what fields and costs give at the start, at times of the shape that they will be asked for."""
    controller, exits = options.controller, options.absorbing is not None
    own = isinstance(controller, PIController) and not controller.whole_batch and len(y0) > 1
    n_noise, flows = {"diagonal": y0.shape[-1], "scalar": 1}.get(model.sde.noise_type), False
    plain = not exits and options.penalty is None and options.gradient in ("backprop", "checkpoint")
    if n_noise is None or grid is None or not plain or not looks_itself(model, y0, options.compile, grid):
        n_noise, flows = look(model.sde, t0.expand(len(y0), 1) if own else t0, y0)
    if model.running:
        look_at_costs(model.running, t0.expand(len(y0), 1) if own or exits else t0, y0, n_noise)
    if model.stepper.needs_decay:
        check_linear_part(model.sde, t0.flatten()[0], y0.shape[-1])
    return n_noise, flows


def _is_exact(stepper: AbstractStepper, options: Options) -> bool:
    """Whether more steps would change nothing in law: not costs, exits, or an adjoint solved along them."""
    alone = not options.running and options.absorbing is None and options.gradient != "adjoint"
    return math.isinf(stepper.weak_order) and alone


def _lay_out(
    outcome: Outcome, times: Tensor, model: Model, batch: tuple[int, ...], own_clock: bool
) -> Solution:
    """Give the caller's batch axes back, and warn of failures."""
    rows, costs = outcome.rows, model.running
    n_state = rows.shape[-1] - len(costs)
    ys = rows[..., :n_state].reshape(*batch, -1, n_state)
    running = {cost.name: rows[..., n_state + i].reshape(*batch, -1) for i, cost in enumerate(costs)}
    counts = {
        "nfe": (outcome.accepted + outcome.rejected) * model.stepper.evaluations[0],
        "accepted": outcome.accepted,
        "rejected": outcome.rejected,
    }
    stats = {name: count.expand(len(rows)).reshape(batch) for name, count in counts.items()}
    status = outcome.status.reshape(batch)
    if bool(status.any()):
        warnings.warn(describe_failure(status), RuntimeWarning, stacklevel=4)
    ts = times.reshape(*batch, -1) if own_clock else times
    if outcome.exits is None:
        return Solution(ts, ys, running, status, stats, outcome.penalty)
    failed = outcome.status > 0
    exit_time = torch.where(failed, torch.inf, outcome.exits[0].to(torch.float64)).reshape(batch)
    barrier = torch.where(failed, -1, outcome.exits[1]).reshape(batch)
    return Solution(ts, ys, running, status, stats, None, exit_time, barrier)


def _check_state(y0: Any) -> tuple[Tensor, tuple[int, ...]]:
    """Initial states as (series, state), and the caller's batch axes."""
    y0 = as_numbers("y0", y0, "a tensor of states (*batch, state)", dtype=None)
    if y0.dim() == 0 or 0 in y0.shape:
        raise ShapeError(
            f"y0: expected (*batch, state) with at least one series and state, got {tuple(y0.shape)}."
        )
    if not y0.dtype.is_floating_point:
        raise DataError(f"y0: expected a floating point tensor, got {y0.dtype}.")
    if not is_finite(y0):
        index = (~torch.isfinite(y0)).nonzero()[0].tolist()
        raise DataError(f"y0{index} is {y0[tuple(index)].item()!r}; expected finite initial states.")
    batch = tuple(y0.shape[:-1])
    return y0.reshape(math.prod(batch), y0.shape[-1]), batch


def _check_running(running: Any) -> tuple[RunningCost, ...]:
    costs = tuple(running) if isinstance(running, Iterable) else (running,)
    if isinstance(running, RunningCost) or not all(isinstance(cost, RunningCost) for cost in costs):
        raise DataError(f"running: expected a list of RunningCost(...), got {reprlib.repr(running)}.")
    names = [cost.name for cost in costs]
    if len(set(names)) < len(names):
        raise DataError(f"running: expected distinct names, got {names}.")
    return costs


def _check_penalty(penalty: Any) -> None:
    if penalty is not None and not isinstance(penalty, StepPenalty):
        raise DataError(f"penalty: expected a StepPenalty(...) or None, got {penalty!r}.")


def _check_keys(series: Any, n_series: int, device: torch.device) -> Tensor | None:
    if series is None:
        return None
    what = "integer keys, one a series; neurosde.noise.series_keys makes keys of any ids"
    keys = as_numbers("series", series, what, dtype=None).reshape(-1)
    if keys.is_complex():
        raise DataError(f"series: expected {what}, got {keys.dtype}.")
    return as_series(keys, n_series, device)
