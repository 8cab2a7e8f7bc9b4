"""Rules for the lengths of steps."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ConstantStep:
    """Equal steps between requested times, none longer than ``dt``.

    Examples
    --------
    >>> from neurosde.solve import ConstantStep
    >>> ConstantStep()
    ConstantStep()
    """
