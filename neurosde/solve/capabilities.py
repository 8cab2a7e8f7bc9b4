"""What the steppers can do, as rows of a table."""

from neurosde.sde import SDE
from neurosde.solve.choice import STEPPERS
from neurosde.solve.stepper import ANY_NOISE, AbstractStepper
from neurosde.typing import Any


def capabilities() -> list[dict[str, Any]]:
    """One row a stepper, as its class says it, for tables in documentation and programs that choose.

    Returns
    -------
    list of dict
        ``stepper``; ``calculus``; ``noise`` ("any" or the types); ``strong_general``, ``strong_commutative``
        and ``strong_additive`` (None where not claimed); ``weak``; ``drift_evaluations`` and
        ``diffusion_evaluations`` a step; ``levy``; ``adaptive`` (whether it estimates its error); ``needs``,
        what else it asks of the SDE.

    Examples
    --------
    >>> from neurosde.solve import capabilities
    >>> [row["stepper"] for row in capabilities() if row["strong_commutative"] == 1.5]
    ['SRK', 'SlowRK']
    """
    return [_row(stepper) for stepper in STEPPERS]


def _row(stepper: AbstractStepper) -> dict[str, Any]:
    noise = "any" if stepper.noise_types == ANY_NOISE else ", ".join(stepper.noise_types)
    needs = []
    if stepper.form is not SDE:
        needs.append(f"the form of {stepper.form.__name__}")
    if stepper.needs_decay:
        needs.append("a linear part, decay(t)")
    general, commutative, additive = stepper.strong_order
    return {
        "stepper": type(stepper).__name__,
        "calculus": stepper.sde_types[0] if len(stepper.sde_types) == 1 else "either",
        "noise": "additive" if stepper.needs_additive else noise,
        "strong_general": general,
        "strong_commutative": commutative,
        "strong_additive": additive,
        "weak": stepper.weak_order,
        "drift_evaluations": stepper.evaluations[0],
        "diffusion_evaluations": stepper.evaluations[1],
        "levy": stepper.levy,
        "adaptive": stepper.embedded,
        "needs": " and ".join(needs),
    }
