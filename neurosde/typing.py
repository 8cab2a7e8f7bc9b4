"""Types that annotations share: tensors with named axes (checked in tests), arrays and seeds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

Array: TypeAlias = np.ndarray[Any, Any]
NoiseType: TypeAlias = Literal["diagonal", "additive", "scalar", "general"]
SDEType: TypeAlias = Literal["ito", "stratonovich"]

__all__ = [
    "Any",
    "Array",
    "Bool",
    "Callable",
    "Float",
    "Int",
    "Iterator",
    "Literal",
    "Mapping",
    "NamedTuple",
    "NoiseType",
    "SDEType",
    "Sequence",
    "Tensor",
]
