"""torchsde's entry point on this backend: change the import and nothing else."""

import torch

from neurosde.errors import DataError, ShapeError
from neurosde.sde import as_sde, divergence_cost
from neurosde.solve.entry import solve
from neurosde.solve.euler import EulerMaruyama
from neurosde.solve.heun import Heun, ReversibleHeun
from neurosde.solve.stepper import AbstractStepper
from neurosde.typing import Any, Mapping, Tensor

METHODS: dict[str, AbstractStepper] = {
    "euler": EulerMaruyama(),
    "heun": Heun(),
    "reversible_heun": ReversibleHeun(),
}


def sdeint(
    sde: Any,
    y0: Tensor,
    ts: Any,
    bm: Any = None,
    method: str | None = None,
    dt: float = 1e-3,
    *,
    names: Mapping[str, str] | None = None,
    logqp: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Solve an SDE with torchsde's arguments, and return what torchsde returns: time first.

    Unlike torchsde, steps are counted in integers (``dt = 0.01`` on [0, 1] is 100 steps) and land on ``ts``.

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
        "euler", "heun" or "reversible_heun"; by default whatever fits the calculus.
    dt
        Longest step.
    names
        Other names for "drift", "diffusion" and "prior_drift".
    logqp
        Also return the divergence from the SDE with drift ``h``, ``1/2 int |g^-1 (f - h)|^2 dt`` between
        times.

    Returns
    -------
    Tensor or tuple of Tensor
        ``(time, series, state)``, and with ``logqp`` the increments ``(time - 1, series)``.

    Raises
    ------
    DataError
        If the method is not known.

    Examples
    --------
    >>> import torch
    >>> import neurosde as nsde
    >>> sde = nsde.LinearSDE([[-1.0]])
    >>> nsde.sdeint(sde, torch.ones(5, 1), torch.tensor([0.0, 1.0]), dt=0.1).shape
    torch.Size([2, 5, 1])
    """
    if y0.dim() != 2:
        raise ShapeError(f"y0: expected (series, state), got {tuple(y0.shape)}.")
    if method is not None and method not in METHODS:
        raise DataError(f"method: expected one of {', '.join(METHODS)}, got {method!r}.")
    names = dict(names or {})
    prior = names.pop("prior_drift", "h")
    model = as_sde(sde, names)
    running = ()
    if logqp:
        prior_drift = getattr(sde, prior, None)
        if prior_drift is None:
            raise DataError(f"logqp: {type(sde).__name__} has no method {prior!r} for the prior drift.")
        running = (divergence_cost(model, prior_drift, name="logqp"),)
    stepper = None if method is None else METHODS[method]
    solution = solve(model, y0, torch.as_tensor(ts), stepper=stepper, noise=bm, dt=dt, running=running)
    ys = solution.ys.transpose(0, 1)
    return (ys, solution.running["logqp"].diff().transpose(0, 1)) if logqp else ys
