"""A 64-bit mixing function, of tensors and of Python integers alike.

It is the finaliser of SplitMix64 (Steele, Lea & Flood 2014) in the variant of Stafford.
"""

from neurosde.typing import Tensor

_WORD, POSITIVE = (1 << 64) - 1, (1 << 31) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # spreads small fields over the whole word
# shift, mask of the bits that an arithmetic shift would fill with the sign, multiplier as a signed word
ROUNDS = (
    (30, 0x3FFFFFFFF, 0xBF58476D1CE4E5B9 - (1 << 64)),
    (27, 0x1FFFFFFFFF, 0x94D049BB133111EB - (1 << 64)),
    (31, 0x1FFFFFFFF, None),
)
LIGHT = tuple(multiplier for _, _, multiplier in ROUNDS if multiplier is not None)


def mix(word: Tensor) -> Tensor:
    """Avalanche signed 64-bit words."""
    for shift, mask, multiplier in ROUNDS:
        word = word ^ ((word >> shift) & mask)
        word = word if multiplier is None else word * multiplier
    return word


def signed(word: int) -> int:
    """Integer of 64 bits as a tensor holds it."""
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word


def mix_int(word: int) -> int:
    """Avalanche a Python integer like :func:`mix`, so that scalar fields cost no tensor operation."""
    word &= _WORD
    for shift, _, multiplier in ROUNDS:
        word ^= word >> shift
        word = word if multiplier is None else (word * multiplier) & _WORD
    return word


def mixed(key: int | Tensor) -> int | Tensor:
    """Avalanche either."""
    return signed(mix_int(key)) if isinstance(key, int) else mix(key)


def spread_tensor(field: Tensor) -> Tensor:
    """Fields, spread over the whole word."""
    return (field + 1) * signed(_GOLDEN)


def spread(field: int | Tensor) -> int | Tensor:
    """Spread either."""
    return signed((field + 1) * _GOLDEN) if isinstance(field, int) else spread_tensor(field)
