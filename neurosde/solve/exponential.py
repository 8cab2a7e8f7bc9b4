"""Exponential steps: the declared linear part of the drift exactly, with the exact law of its noise."""

from neurosde.sde import SDE, diffuse
from neurosde.solve.linear_part import linear_part, narrow, weigh
from neurosde.solve.stepper import AbstractStepper, Carry, Step, Stepped
from neurosde.typing import NoiseType, Tensor


class ExponentialEuler(AbstractStepper):
    """Exact in the linear part ``-D y`` that the SDE declares by ``decay``, Euler in the rest.

    ``y+ = e^{-x} y + h phi1 (f + D y) + I``, ``x = D h``, ``phi1 = int_0^1 e^{-x s} ds``, with rates or a
    matrix D (the classical exponential Euler scheme; Oh, Lim & Kim 2024 leave the noise open). ``I = int
    e^{-D(h-u)} g dW_u`` is taken from the increment and the space-time integral, ``I = phi1 g W - b g H``
    with ``b b' / 12 = int_0^1 e^{-x s} e^{-x' s} ds - phi1 phi1'``, nearest to the regression on H, which it
    meets as ``x -> 0``: so solves at different steps follow the same path.

    Where the rest and g are constant, the joint law of W and y is exact for rates with diagonal noise, and
    for a matrix with ``g g'`` a multiple of the identity; for other noise the law of each mode is exact and
    that between modes is what two integrals can carry. :class:`LinearTransition` is exact for every g.

    Raises
    ------
    SolveError
        If the SDE declares no linear part.

    Examples
    --------
    >>> from neurosde.solve import ExponentialEuler
    >>> ExponentialEuler().levy
    'space-time'
    """

    sde_types = ("ito",)
    needs_decay = True
    levy = "space-time"
    strong_order = (0.5, 0.5, 1.0)
    evaluations = (1, 1)

    def weights(self, sde: SDE, t: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Rates and the weights of y, of the rest of the drift, of ``g W`` and of ``g H``."""
        part = linear_part(sde, t, h)
        swing, mean = part.swing(), part.mean()
        return narrow(h, (part.D, part.keep(), part.h * mean, mean, swing))

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`ExponentialEuler`."""
        D, keep, push, along, across = step.weights
        f, g = sde.drift_and_diffusion(step.t, y)
        rest = f + weigh(D, y)
        return Stepped(weigh(keep, y) + weigh(push, rest) + _filtered(sde.noise_type, g, step, along, across))


class ExponentialHeun(AbstractStepper):
    """Exact in the linear part ``-D y`` that the SDE declares by ``decay``, Heun in the rest; Stratonovich.

    ``z = e^{-x} y + h phi1 N + I`` as :class:`ExponentialEuler` steps with ``N = f + D y``, and ``y+ = z + h
    phi2 (N(z) - N) + 1/2 (g(z) - g) W``, ``phi2 = int_0^1 (1 - s) e^{-x s} ds`` (Cox & Matthews 2002, ETD2RK,
    with Heun's correction in the noise). Second order where there is no noise, strong order 1 for commutative
    noise; exact in law where :class:`ExponentialEuler` is. The correction is the error estimate.

    Examples
    --------
    >>> from neurosde.solve import ExponentialHeun
    >>> ExponentialHeun().needs_decay
    True
    """

    sde_types = ("stratonovich",)
    needs_decay = True
    levy = "space-time"
    strong_order = (0.5, 1.0, 1.0)
    evaluations = (2, 2)
    embedded = True

    def weights(self, sde: SDE, t: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Those of :class:`ExponentialEuler`, and the weight of the change of the rest."""
        part = linear_part(sde, t, h)
        swing, mean = part.swing(), part.mean()
        return narrow(h, (part.D, part.keep(), part.h * mean, mean, swing, part.h * part.ramp()))

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`ExponentialHeun`."""
        D, keep, push, along, across, turn = step.weights
        f, g = sde.drift_and_diffusion(step.t, y)
        rest = f + weigh(D, y)
        ahead = weigh(keep, y) + weigh(push, rest) + _filtered(sde.noise_type, g, step, along, across)
        f_ahead, g_ahead = sde.drift_and_diffusion(step.t + step.h, ahead)
        change = f_ahead + weigh(D, ahead) - rest
        error = weigh(turn, change) + 0.5 * diffuse(sde.noise_type, g_ahead - g, step.noise.W)
        return Stepped(ahead + error, (), error)


class ExponentialShARK(AbstractStepper):
    """:class:`ShARK` with the linear part ``-D y`` that the SDE declares by ``decay`` integrated exactly.

    With ``N = f + D y`` and ``c = 5/6``: ``z1 = y + phi1(x) g H``, ``z2 = e^{-cx} y + phi1(cx) (c h N(z1) + g
    (c W + H))``, ``y+ = e^{-x} y + h (phi1 - phi2/c) N(z1) + h phi2/c N(z2) + I + phi2 dg W - phi1 dg H``,
    ``dg = g(t + h) - g``, ``phi1, phi2`` at ``x = D h``, I as in :class:`ExponentialEuler`. The weights are
    those of Cox & Matthews (2002) on the stages of Foster, dos Reis & Strange 2023 (arXiv 2210.17543, eq.
    6.1), and tend to ShARK's as ``x -> 0``. Strong order 3/2 and weak order 2 for additive noise in either
    calculus; exact in law where :class:`ExponentialEuler` is. The error estimate is that of the rest of the
    drift: a controller that follows it does not see what long steps do to the noise.

    Examples
    --------
    >>> from neurosde.solve import ExponentialShARK
    >>> ExponentialShARK().strong_order
    (None, None, 1.5)
    """

    sde_types = ("ito", "stratonovich")
    needs_additive = True
    needs_decay = True
    levy = "space-time"
    strong_order = (None, None, 1.5)
    weak_order = 2.0
    evaluations = (2, 1)
    embedded = True

    def start(self, sde: SDE, t: Tensor, y: Tensor) -> Carry:
        """Diffusion at the start."""
        return (sde.diffusion(t, y),)

    def weights(self, sde: SDE, t: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Rates; weights of y, of noise and drift at the second stage; of y, drift and noise at the end."""
        part = linear_part(sde, t, h)
        swing, mean, ramp, c = part.swing(), part.mean(), part.ramp(), 5 / 6
        stage = (part.keep(c), part.mean(c), c * part.h * part.mean(c))
        end = (part.keep(), part.h * mean, part.h * ramp / c, mean, swing, ramp)
        return narrow(h, (part.D, *stage, *end))

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`ExponentialShARK`."""
        D, keep_stage, along_stage, push_stage, keep, push, turn, along, across, ramp = step.weights
        (g,) = carry
        noise, W, H = sde.noise_type, step.noise.W, step.noise.H
        assert H is not None  # the door has checked that the noise carries it
        shift = diffuse(noise, g, H)
        z = y + weigh(along, shift)
        rest = sde.drift(step.t, z) + weigh(D, z)
        driven = weigh(along_stage, 5 / 6 * diffuse(noise, g, W) + shift)
        z = weigh(keep_stage, y) + weigh(push_stage, rest) + driven
        error = weigh(turn, sde.drift(step.t + 5 / 6 * step.h, z) + weigh(D, z) - rest)
        g_ahead = sde.diffusion(step.t + step.h, y)
        moved = _filtered(noise, g, step, along, across) + _filtered(noise, g_ahead - g, step, ramp, along)
        return Stepped(weigh(keep, y) + weigh(push, rest) + error + moved, (g_ahead,), error)


def _filtered(noise: NoiseType, g: Tensor, step: Step, along: Tensor, across: Tensor) -> Tensor:
    """``along g W - across g H``."""
    W, H = step.noise.W, step.noise.H
    assert H is not None  # the door has checked that the noise carries it
    if noise == "diagonal" and along.dim() == 2:
        return g * (along * W - across * H)
    return weigh(along, diffuse(noise, g, W)) - weigh(across, diffuse(noise, g, H))
