"""Stochastic Runge-Kutta methods on (W, H), after Foster: an engine, and a table a method.

``H`` is the space-time integral of :mod:`neurosde.noise.records`. Stage i of a step stands at ``z_i = y + h
sum_j a_ij f_j + sum_j g_j (p_ij W + q_ij H)`` with ``f_j, g_j`` the fields at ``(t + c_j h, z_j)``; the step
ends at ``y+ = y + h sum_j b_j f_j + sum_j g_j (p_j W + q_j H)``.
"""

import dataclasses
import math
from typing import ClassVar

from neurosde.sde import SDE, diffuse
from neurosde.solve.stepper import AbstractStepper, Carry, Step, Stepped
from neurosde.typing import Mapping, NamedTuple, Sequence, Tensor

Row = tuple[float, ...]


class Weights(NamedTuple):
    """Weights on ``h f``, ``g W`` and ``g H`` of the stages so far; a row that ends goes on with zeros."""

    f: Row = ()
    W: Row = ()
    H: Row = ()

    def on(self, stage: int) -> tuple[bool, bool]:
        """Whether the drift and the diffusion of a stage have any weight."""
        f, W, H = (any(row[stage : stage + 1]) for row in self)
        return f, W or H


NO_WEIGHTS = Weights()


@dataclasses.dataclass(frozen=True)
class Tableau:
    """A method as a table.

    Parameters
    ----------
    c
        Times of the stages, as fractions of the step.
    stages
        Weights that lead from y to each stage; the first stands at y.
    result, error
        Weights that lead from y to the end of the step, and those of the estimate of its error.
    takes
        Whether the drift and the diffusion of each stage are used at all.
    """

    c: Row
    stages: tuple[Weights, ...]
    result: Weights
    error: Weights = NO_WEIGHTS
    takes: tuple[tuple[bool, bool], ...] = dataclasses.field(init=False)

    def __post_init__(self):
        rows = (*self.stages, self.result, self.error)
        used = [[row.on(i) for row in rows] for i in range(len(self.c))]
        takes = tuple((any(f for f, _ in stage), any(g for _, g in stage)) for stage in used)
        object.__setattr__(self, "takes", takes)


class AbstractRungeKutta(AbstractStepper):
    """A method that is nothing but its table; entries of zero cost nothing.

    Attributes
    ----------
    tableau
        The table.
    """

    tableau: ClassVar[Tableau]
    levy = "space-time"

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """Take one step through the stages of the table."""
        table, noise = self.tableau, sde.noise_type
        integrals = _integrals(step)
        f: dict[int, Tensor] = {}
        g: dict[int, Tensor] = {}

        def terms(weights: Weights) -> list[Tensor]:
            drift = [step.h * _combine(weights.f, f)] if any(weights.f) else []
            rows = {i: (_at(weights.W, i), _at(weights.H, i)) for i in g}
            return drift + [
                diffuse(noise, g[i], _combine(row, integrals)) for i, row in rows.items() if any(row)
            ]

        for i, (c, weights, takes) in enumerate(zip(table.c, table.stages, table.takes, strict=True)):
            t = step.t + c * step.h if c else step.t
            z = _total([y, *terms(weights)])
            if all(takes):
                f[i], g[i] = sde.drift_and_diffusion(t, z)
            elif takes[0]:
                f[i] = sde.drift(t, z)
            else:
                g[i] = sde.diffusion(t, z)
        error = _total(terms(table.error)) if self.embedded else None
        return Stepped(_total([y, *terms(table.result)]), (), error)


class AdditiveTableau(NamedTuple):
    """A method for additive noise: ``z_i = y + h sum_j a_ij f_j + g (p_i W + q_i H)``.

    Parameters
    ----------
    c, p, q
        Times of the stages, as fractions of the step, and the noise at them.
    a
        Weights of earlier drifts at each stage.
    b, error
        Weights of the drifts in the step, and in the estimate of its error.
    """

    c: Row
    a: tuple[Row, ...]
    p: Row
    q: Row
    b: Row
    error: Row = ()


class AbstractAdditiveRungeKutta(AbstractStepper):
    """A table for additive noise: ``y+ = y + h sum_i b_i f_i + g(t) (W/2 + H) + g(t + h) (W/2 - H)``.

    Integration by parts against the linear interpolation of g in time; without it the order falls to 1 where
    g changes. The diffusion at the end of a step is that at the start of the next: one evaluation a step.

    Attributes
    ----------
    tableau
        The table.
    """

    tableau: ClassVar[AdditiveTableau]
    sde_types = ("ito", "stratonovich")
    needs_additive = True
    levy = "space-time"

    def start(self, sde: SDE, t: Tensor, y: Tensor) -> Carry:
        """Diffusion at the start."""
        return (sde.diffusion(t, y),)

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """Take one step through the stages of the table."""
        (g,) = carry
        c, a, p, q, b, error = self.tableau
        noise, h, W, H = sde.noise_type, step.h, *_integrals(step)
        moves = (diffuse(noise, g, W), diffuse(noise, g, H))
        f: list[Tensor] = []
        for i, row in enumerate(a):
            parts = [_combine((p[i], q[i]), moves)] if p[i] or q[i] else []
            parts += [h * _combine(row, f)] if any(row) else []
            f.append(sde.drift(step.t + c[i] * h if c[i] else step.t, _total([y, *parts])))
        g_ahead = sde.diffusion(step.t + h, y)
        y_next = y + h * _combine(b, f) + (0.5 * moves[0] + moves[1] + diffuse(noise, g_ahead, 0.5 * W - H))
        return Stepped(y_next, (g_ahead,), h * _combine(error, f) if self.embedded else None)


def _integrals(step: Step) -> tuple[Tensor, Tensor]:
    """W and H of a step."""
    assert step.noise.H is not None  # the door has checked that the noise carries it
    return step.noise.W, step.noise.H


def _at(row: Row, i: int) -> float:
    return row[i] if i < len(row) else 0.0


def _combine(weights: Row, tensors: Mapping[int, Tensor] | Sequence[Tensor]) -> Tensor:
    """Linear combination of those tensors whose weights are not zero."""
    return _total([tensors[i] if w == 1 else w * tensors[i] for i, w in enumerate(weights) if w])


def _total(parts: list[Tensor]) -> Tensor:
    return sum(parts[1:], parts[0])


class SEA(AbstractAdditiveRungeKutta):
    """Shifted Euler with additive noise, ``y+ = y + h f(t, y + g (W/2 + H)) + g W``, plus the change of g.

    Foster, dos Reis & Strange 2023 (arXiv 2210.17543), equation 5.8: Euler's price, strong order 1 and a
    smaller error, in either calculus.

    Examples
    --------
    >>> from neurosde.solve import SEA
    >>> SEA().evaluations
    (1, 1)
    """

    tableau = AdditiveTableau(c=(0.0,), a=((),), p=(0.5,), q=(1.0,), b=(1.0,))
    strong_order = (None, None, 1.0)
    evaluations = (1, 1)


class ShARK(AbstractAdditiveRungeKutta):
    """Shifted additive-noise Runge-Kutta: ``z1 = y + g H``, ``z2 = y + 5/6 (h f1 + g W) + g H``.

    ``y+ = y + h (2/5 f1 + 3/5 f2) + g W`` plus the change of g, ``f1, f2`` at the times ``t, t + 5/6 h``
    (Foster, dos Reis & Strange 2023, arXiv 2210.17543, equation 6.1): strong order 3/2 and weak order 2 for
    additive noise in either calculus. The error estimate is that of the drift, ``3/5 h (f2 - f1)``.

    Examples
    --------
    >>> from neurosde.solve import ShARK
    >>> ShARK().strong_order
    (None, None, 1.5)
    """

    tableau = AdditiveTableau(
        c=(0.0, 5 / 6), a=((), (5 / 6,)), p=(0.0, 5 / 6), q=(1.0, 1.0), b=(0.4, 0.6), error=(-0.6, 0.6)
    )
    strong_order = (None, None, 1.5)
    weak_order = 2.0
    evaluations = (2, 1)
    embedded = True


class SRA1(AbstractAdditiveRungeKutta):
    """Rossler's method for additive noise: ``z1 = y``, ``z2 = y + 3/4 (h f1 + g W) + 3/2 g H``.

    ``y+ = y + h (1/3 f1 + 2/3 f2) + g W`` plus the change of g, ``f1, f2`` at the times ``t, t + 3/4 h``
    (Rossler 2010, SIAM J. Numer. Anal. 48(3), table 6.3): strong order 3/2 and weak order 2 in either
    calculus. The error estimate is that of the drift, ``2/3 h (f2 - f1)``.

    Examples
    --------
    >>> from neurosde.solve import SRA1
    >>> SRA1().embedded
    True
    """

    tableau = AdditiveTableau(
        c=(0.0, 0.75), a=((), (0.75,)), p=(0.0, 0.75), q=(0.0, 1.5), b=(1 / 3, 2 / 3), error=(-2 / 3, 2 / 3)
    )
    strong_order = (None, None, 1.5)
    weak_order = 2.0
    evaluations = (2, 1)
    embedded = True


class GeneralShARK(AbstractRungeKutta):
    """:class:`ShARK` for noise that may depend on y, for Stratonovich SDEs.

    ``z1 = y``, ``z2 = y + g1 H``, ``z3 = y + 5/6 (h f2 + g2 W) + g1 H``, ``y+ = y + h (2/5 f2 + 3/5 f3) +
    (2/5 g2 + 3/5 g3) W + 6/5 (g2 - g3) H`` (Foster, dos Reis & Strange 2023, arXiv 2210.17543, section 6).
    Strong order 1 for commutative and 3/2 for additive noise, where its weak order is 2.

    Examples
    --------
    >>> from neurosde.solve import GeneralShARK
    >>> GeneralShARK().evaluations
    (2, 3)
    """

    tableau = Tableau(
        c=(0.0, 0.0, 5 / 6),
        stages=(NO_WEIGHTS, Weights(H=(1.0,)), Weights(f=(0.0, 5 / 6), W=(0.0, 5 / 6), H=(1.0,))),
        result=Weights(f=(0.0, 0.4, 0.6), W=(0.0, 0.4, 0.6), H=(0.0, 1.2, -1.2)),
    )
    sde_types = ("stratonovich",)
    strong_order = (0.5, 1.0, 1.5)
    evaluations = (2, 3)


_OUTER, _INNER = (3 - math.sqrt(3)) / 6, math.sqrt(3) / 3


class SPaRK(AbstractRungeKutta):
    """Splitting path Runge-Kutta: Strang's splitting along a piecewise linear path, for Stratonovich SDEs.

    Foster & Jelincic 2023 (arXiv 2311.14201), definition 1.6: stages at 0, 1/2 and 1 with weights ``(3 - sqrt
    3)/6, sqrt(3)/3, (3 - sqrt 3)/6``, the noise of the second stage ``W/2 + sqrt(3) H``, and ``(g1 - g3) H``
    in the step. Strong order 1 for commutative and 3/2 for additive noise, where its weak order is 2.
    Both fields have error estimates.

    Examples
    --------
    >>> from neurosde.solve import SPaRK
    >>> SPaRK().embedded
    True
    """

    tableau = Tableau(
        c=(0.0, 0.5, 1.0),
        stages=(
            NO_WEIGHTS,
            Weights(f=(0.5,), W=(0.5,), H=(math.sqrt(3),)),
            Weights(f=(0.0, 1.0), W=(0.0, 1.0)),
        ),
        result=Weights(f=(_OUTER, _INNER, _OUTER), W=(_OUTER, _INNER, _OUTER), H=(1.0, 0.0, -1.0)),
        error=Weights(
            f=(_OUTER - 0.5, _INNER, _OUTER - 0.5), W=(_OUTER - 0.5, _INNER, _OUTER - 0.5), H=(1.0, 0.0, -1.0)
        ),
    )
    sde_types = ("stratonovich",)
    strong_order = (0.5, 1.0, 1.5)
    evaluations = (3, 3)
    embedded = True


class SlowRK(AbstractRungeKutta):
    """Strong order 3/2 for commutative noise: seven stages along the noise, two along the drift.

    Foster, dos Reis & Strange 2023 (arXiv 2210.17543), equation 6.2, for Stratonovich SDEs: Kutta's classical
    fourth-order rule in W, and ``2 H (g4 - g7)`` for the space-time integral. Weak order 2 for
    additive noise. The error estimate is the distance to ``h f1 + g3 W``, the midpoint rule along the noise
    with Euler's drift, which has strong order 1.

    Examples
    --------
    >>> from neurosde.solve import SlowRK
    >>> SlowRK().evaluations
    (2, 5)
    """

    tableau = Tableau(
        c=(0.0, 0.5, 0.5, 0.5, 0.5, 0.75, 1.0),
        stages=(
            NO_WEIGHTS,
            Weights(f=(0.5,)),
            Weights(f=(0.5,), W=(0.0, 0.5)),
            Weights(f=(0.5,), W=(0.0, 0.0, 0.5)),
            Weights(f=(0.5,), W=(0.0, 0.0, 0.0, 1.0)),
            Weights(f=(0.75,), W=(0.0, 0.0, 0.0, 0.75), H=(0.0, 0.0, 0.0, 1.5)),
            Weights(f=(1.0,), W=(0.0, 0.0, 0.5)),
        ),
        result=Weights(
            f=(1 / 3, 0.0, 0.0, 0.0, 0.0, 2 / 3),
            W=(0.0, 1 / 6, 1 / 3, 1 / 3, 1 / 6),
            H=(0.0, 0.0, 0.0, 2.0, 0.0, 0.0, -2.0),
        ),
        error=Weights(
            f=(-2 / 3, 0.0, 0.0, 0.0, 0.0, 2 / 3),
            W=(0.0, 1 / 6, -2 / 3, 1 / 3, 1 / 6),
            H=(0.0, 0.0, 0.0, 2.0, 0.0, 0.0, -2.0),
        ),
    )
    sde_types = ("stratonovich",)
    strong_order = (0.5, 1.5, 1.5)
    evaluations = (2, 5)
    embedded = True
