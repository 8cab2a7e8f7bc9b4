"""torchsde's entry points on this backend: change the import and nothing else."""

import math
import reprlib
import warnings
from collections.abc import Iterable
from typing import cast

import torch

from neurosde.arguments import as_number
from neurosde.errors import DataError, ShapeError, SolveError
from neurosde.sde import SDE, Field, ForeignSDE, as_names, as_sde, divergence_cost
from neurosde.solve.choice import check_stepper, choose_stepper
from neurosde.solve.controller import PIController
from neurosde.solve.entry import Options, solve_with_carry
from neurosde.solve.euler import EulerMaruyama
from neurosde.solve.gradients import Gradient
from neurosde.solve.grid import as_times
from neurosde.solve.heun import EulerHeun, Heun, ReversibleHeun
from neurosde.solve.log_ode import LogODE, Midpoint
from neurosde.solve.milstein import Milstein
from neurosde.solve.rossler import SRK
from neurosde.solve.runge_kutta import SRA1
from neurosde.solve.stepper import AbstractStepper
from neurosde.typing import Any, Mapping, NamedTuple, Sequence, Tensor

_DT = 1e-3  # torchsde's default
METHODS: dict[str, type[AbstractStepper]] = {
    "euler": EulerMaruyama,
    "milstein": Milstein,
    "srk": SRK,
    "midpoint": Midpoint,
    "heun": Heun,
    "euler_heun": EulerHeun,
    "reversible_heun": ReversibleHeun,
    "adjoint_reversible_heun": ReversibleHeun,
    "log_ode": LogODE,
}


def sdeint(
    sde: Any,
    y0: Tensor,
    ts: Any,
    bm: Any = None,
    method: str | None = None,
    dt: float = _DT,
    adaptive: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-4,
    dt_min: float = 1e-5,
    options: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    logqp: bool = False,
    extra: bool = False,
    extra_solver_state: tuple[Tensor, ...] | None = None,
    **unused: Any,
) -> Any:
    """Solve an SDE with torchsde's arguments, and return what torchsde returns: time first.

    Unlike torchsde, steps are counted in integers (``dt = 0.01`` on [0, 1] is 100 steps) and land on ``ts``;
    adaptive steps come with the error estimate of their method (one that has none is replaced by one that
    has).

    Parameters
    ----------
    sde
        A torchsde SDE.
    y0
        ``(series, state)``.
    ts
        ``(time,)``, strictly increasing.
    bm
        A torchsde Brownian motion, or None for fresh noise.
    method
        A name of torchsde's; by default torchsde's own choice.
    dt
        Longest step; the first one if adaptive. The default is one step of times that span less.
    adaptive, rtol, atol
        Whether the steps of the whole batch follow an estimated error, and its tolerances.
    dt_min
        Shortest adaptive step.
    options
        ``{"grad_free": True}`` for Milstein's method without derivatives.
    names
        Other names for "drift", "diffusion", "prior_drift" and "drift_and_diffusion".
    logqp
        Also return the divergence from the SDE with drift ``h``, ``1/2 int |g^-1 (f - h)|^2 dt`` between
        times.
    extra, extra_solver_state
        Return, or start from, what the method carries beside the state: ``(f, g, z)`` of reversible Heun
        steps.
    **unused
        Named in a warning, as torchsde does.

    Returns
    -------
    Tensor or tuple
        ``(time, series, state)``; with ``logqp`` also ``(time - 1, series)``; with ``extra`` also the
        carried tuple.

    Raises
    ------
    DataError, ShapeError
        If an argument cannot be used; both are ValueErrors.

    Examples
    --------
    >>> import torch
    >>> import neurosde as nsde
    >>> sde = nsde.LinearSDE([[-1.0]])
    >>> nsde.sdeint(sde, torch.ones(5, 1), torch.tensor([0.0, 1.0]), dt=0.1).shape
    torch.Size([2, 5, 1])
    """
    _warn_of(unused, "sdeint")
    call = _Call(bm, method, dt, (rtol, atol, dt_min) if adaptive else None, options, extra_solver_state)
    return _integrate(sde, y0, ts, call, names, logqp, extra, gradient="backprop")


def sdeint_adjoint(
    sde: Any,
    y0: Tensor,
    ts: Any,
    bm: Any = None,
    method: str | None = None,
    adjoint_method: str | None = None,
    dt: float = _DT,
    adaptive: bool = False,
    adjoint_adaptive: bool = False,
    rtol: float = 1e-5,
    adjoint_rtol: float = 1e-5,
    atol: float = 1e-4,
    adjoint_atol: float = 1e-4,
    dt_min: float = 1e-5,
    options: Mapping[str, Any] | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Sequence[Tensor] | None = None,
    names: Mapping[str, str] | None = None,
    logqp: bool = False,
    extra: bool = False,
    extra_solver_state: tuple[Tensor, ...] | None = None,
    **unused: Any,
) -> Any:
    """Solve an SDE with a gradient whose memory does not grow with the number of steps.

    Reversible Heun steps are undone, which is exact; other methods solve the stochastic adjoint by Heun
    steps on the same steps. With ``logqp`` blocks of steps are taken again instead. The backward pass needs
    no settings of its own: ``adjoint_method``, ``adjoint_adaptive``, ``adjoint_rtol``, ``adjoint_atol`` and
    ``adjoint_options`` are taken for torchsde's sake and change nothing.

    Parameters
    ----------
    sde, y0, ts, bm, method, dt, adaptive, rtol, atol, dt_min, options
        As in :func:`sdeint`.
    names, logqp, extra, extra_solver_state
        As in :func:`sdeint`.
    adjoint_method, adjoint_adaptive, adjoint_rtol, adjoint_atol, adjoint_options
        Not needed.
    adjoint_params
        Tensors that get a gradient; by default the parameters of ``sde``, a torch module.
    **unused
        Named in a warning.

    Returns
    -------
    Tensor or tuple
        As :func:`sdeint`.

    Raises
    ------
    DataError
        If ``sde`` is not a module and no parameters are named.
    """
    _warn_of(unused, "sdeint_adjoint")
    if adjoint_params is None and not isinstance(sde, torch.nn.Module):
        raise DataError(
            "sde: expected a torch module, whose parameters get a gradient; or name adjoint_params."
        )
    call = _Call(bm, method, dt, (rtol, atol, dt_min) if adaptive else None, options, extra_solver_state)
    reversible = method in ("reversible_heun", "adjoint_reversible_heun")
    gradient = "checkpoint" if logqp else "reversible" if reversible else "adjoint"
    return _integrate(sde, y0, ts, call, names, logqp, extra, gradient=gradient, tensors=adjoint_params)


class _Call(NamedTuple):
    """Settings of one integration, in torchsde's terms."""

    bm: Any
    method: str | None
    dt: float
    adaptive: tuple[float, float, float] | None
    options: Mapping[str, Any] | None
    extra_solver_state: tuple[Tensor, ...] | None


def _integrate(
    sde: Any,
    y0: Tensor,
    ts: Any,
    call: _Call,
    names: Mapping[str, str] | None,
    logqp: bool,
    extra: bool,
    *,
    gradient: Gradient,
    tensors: Sequence[Tensor] | None = None,
) -> Any:
    if not isinstance(y0, Tensor) or y0.dim() != 2:
        raise ShapeError(
            f"y0: expected a tensor (series, state), got {getattr(y0, 'shape', type(y0).__name__)}."
        )
    ts, names = as_times(ts), as_names(names)
    prior_name = names.pop("prior_drift", "h")
    model = as_sde(sde, names)
    if tensors is not None:
        model = ForeignSDE(model, tensors=_as_parameters(tensors))
    running = ()
    if logqp:
        prior = getattr(sde, prior_name, None)
        if not callable(prior):
            raise DataError(f"logqp: {type(sde).__name__} has no method {prior_name!r} for the prior drift.")
        running = (divergence_cost(model, cast(Field, prior), name="logqp"),)
    stepper = _stepper(call, model)
    controller = None
    if call.adaptive is not None:
        rtol, atol, dt_min = call.adaptive
        shortest = as_number("dt_min", dt_min, "a finite length of time >= 0", lambda x: 0 <= x < math.inf)
        controller = PIController(rtol, atol, first=_as_first(call.dt), shortest=shortest, whole_batch=True)
    dt = None if controller else _one_step_at_least(call.dt, ts)
    options = Options(stepper, controller, call.bm, dt, running=running, gradient=gradient)
    carries = isinstance(stepper, ReversibleHeun)  # the other methods hand on nothing, as in torchsde
    carry = _to_carry(call.extra_solver_state, y0) if carries else None
    solution, carry = solve_with_carry(model, y0, ts, options, carry)
    parts = [solution.ys.transpose(0, 1)]
    if logqp:
        parts.append(solution.running["logqp"].diff().transpose(0, 1))
    return (*parts, _from_carry(carry) if carries else ()) if extra else tuple(parts) if logqp else parts[0]


def _stepper(call: _Call, sde: SDE) -> AbstractStepper:
    """Choose torchsde's method by name, or its own default."""
    method, options = call.method, call.options or {}
    if not isinstance(options, Mapping):
        raise DataError(f'options: expected a dict such as {{"grad_free": True}}, got {options!r}.')
    if method is None:
        ito = "euler" if sde.noise_type == "general" else "srk"
        method = ito if sde.sde_type == "ito" else "midpoint"
    if not isinstance(method, str) or method not in METHODS:
        raise DataError(f"method: expected one of {', '.join(METHODS)}, got {method!r}.")
    if method == "srk" and sde.noise_type == "additive":
        stepper: AbstractStepper = SRA1()
    elif method == "milstein":
        stepper = Milstein(derivative_free=bool(options.get("grad_free", False)))
    else:
        stepper = METHODS[method]()
    if call.adaptive is not None and not stepper.embedded:
        return choose_stepper(sde, adaptive=True)
    try:
        return check_stepper(stepper, sde, call.adaptive is not None)
    except SolveError as error:  # what torchsde takes for an unusable value
        raise DataError(f"method: {method!r} does not fit; {error}") from error


def _one_step_at_least(dt: Any, ts: Tensor) -> Any:
    """The step, but torchsde's default is one step of times that span less."""
    span = float(ts.max() - ts.min()) if ts.numel() else 0.0
    return span if isinstance(dt, float) and dt == _DT and 0 < span < dt else dt


def _as_first(dt: Any) -> float | None:
    """The first step, under torchsde's name for it."""
    return None if dt is None else as_number("dt", dt, "a positive first step", lambda x: 0 < x < math.inf)


def _as_parameters(tensors: Any) -> tuple[Tensor, ...]:
    """Tensors that were named to get a gradient."""
    listed = isinstance(tensors, Iterable) and not isinstance(tensors, Tensor)
    known = tuple(tensors) if listed else ()
    if not listed or not all(isinstance(x, Tensor) for x in known):
        raise DataError(f"adjoint_params: expected a list of tensors, got {reprlib.repr(tensors)}.")
    return known


def _to_carry(state: Any, y0: Tensor) -> tuple[Tensor, ...] | None:
    """Turn around: torchsde hands on (f, g, z), this backend (z, f, g)."""
    if state is None or state == ():
        return None
    whole = isinstance(state, tuple | list) and len(state) == 3 and all(isinstance(x, Tensor) for x in state)
    if not whole:
        raise DataError(
            "extra_solver_state: expected what extra=True gave, the tensors (f, g, z), got "
            f"{reprlib.repr(state)}."
        )
    f, g, z = state
    if f.shape != y0.shape or z.shape != y0.shape or g.shape[:2] != y0.shape:
        raise ShapeError(
            f"extra_solver_state: expected tensors (f, g, z) whose axes start with (series, state) = "
            f"{tuple(y0.shape)}, got {tuple(f.shape)}, {tuple(g.shape)} and {tuple(z.shape)}."
        )
    return (z, f, g)


def _from_carry(carry: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (carry[1], carry[2], carry[0]) if carry else ()


def _warn_of(unused: Mapping[str, Any], name: str) -> None:
    if unused:
        warnings.warn(f"{name}: unexpected arguments {sorted(unused)}.", UserWarning, stacklevel=3)
