"""Increments of Brownian motion with their space-time integrals, and the algebra of adjacent intervals.

On ``[s, u]`` of length ``h``: ``W`` is the increment, ``H = h^-1 int (W_{s,r} - (r-s)/h W) dr ~ N(0, h/12)``
and ``K = h^-2 int (W_{s,r} - (r-s)/h W)((s+u)/2 - r) dr ~ N(0, h/720)``, independent of one another (Foster
2020; Jelincic, Foster & Kidger 2024, arXiv 2405.06464). Inside this floor the scaled forms ``h H`` and ``h^2
K`` are carried, for they add up without divisions.
"""

from typing import NamedTuple

import torch

from neurosde.typing import Callable, Literal, Tensor

Levy = Literal["none", "space-time", "space-time-time", "area"]
_TINY = 1e-300
RICHNESS: dict[str, int] = {"none": 1, "space-time": 2, "space-time-time": 3, "area": 2}


class BrownianIncrement(NamedTuple):
    """What one step sees of the noise: its length and the integrals of the path over it.

    Parameters
    ----------
    dt
        Length of the interval, shape ``()`` or ``(series, 1)``.
    W
        Increment, ``(series, noise)``.
    H, K
        Space-time and space-time-time integrals of the same shape, or None where the path does not carry
        them.
    A
        Approximate Levy area between channels, ``(series, noise, noise)``, or None; see :func:`levy_area`.
    """

    dt: Tensor
    W: Tensor
    H: Tensor | None = None
    K: Tensor | None = None
    A: Tensor | None = None

    def at(self, step: int | slice) -> "BrownianIncrement":
        """Take one step, or a run of them, out of a record with a leading step axis."""
        H, K, A = (None if part is None else part[step] for part in self[2:])
        return BrownianIncrement(self.dt[step], self.W[step], H, K, A)


def levy_area(W: Tensor, H: Tensor, h: Tensor, z: Tensor) -> Tensor:
    """Levy area ``1/2 int (W_j dW_k - W_k dW_j)`` of a step, drawn with its mean and variance given W and H.

    ``A_jk = H_j W_k - W_j H_k + b_jk`` with b antisymmetric and independent of W, ``Var(b_jk | H) = h^2/20 +
    (h/5)(H_j^2 + H_k^2)`` (Foster 2020, section 7); over all, ``Var A_jk = h^2/4`` as on the true path. The
    areas of two adjacent steps drawn in this way do not add up to that of the whole.

    Parameters
    ----------
    W, H
        Increment and space-time integral, ``(..., noise)``.
    h
        Length, broadcast against them.
    z
        Standard normals, one a pair of channels, ``(..., noise (noise - 1) / 2)``.

    Returns
    -------
    Tensor
        ``(..., noise, noise)``.
    """
    j, k = torch.triu_indices(W.shape[-1], W.shape[-1], 1, device=W.device)
    b = W.new_zeros(*W.shape, W.shape[-1])
    b[..., j, k] = z * (h * h / 20 + h / 5 * (H[..., j].square() + H[..., k].square())).sqrt()
    outer = H.unsqueeze(-1) * W.unsqueeze(-2)
    return outer - outer.mT + b - b.mT


class Scaled(NamedTuple):
    """``(W, h H, h^2 K)`` of an interval; missing integrals are None."""

    W: Tensor
    H: Tensor | None
    K: Tensor | None


def each(function: Callable[..., Tensor], *records: Scaled) -> Scaled:
    """Apply the same function to every integral that the records carry."""
    W = function(*(record.W for record in records))
    H = None if records[0].H is None else function(*(record.H for record in records))
    K = None if records[0].K is None else function(*(record.K for record in records))
    return Scaled(W, H, K)


def join(first: Scaled, a: Tensor, second: Scaled, b: Tensor | float) -> Scaled:
    """Recombine two adjacent intervals of lengths a and b (Jelincic, Foster & Kidger 2024, section 5)."""
    W = first.W + second.W
    if first.H is None or second.H is None:
        return Scaled(W, None, None)
    q = b * first.W - a * second.W
    H = first.H + second.H + 0.5 * q
    if first.K is None or second.K is None:
        return Scaled(W, H, None)
    K = first.K + second.K + 0.5 * (b * first.H - a * second.H) + ((b - a) / 12) * q
    return Scaled(W, H, K)


def difference(to_s: Scaled, s: Tensor, to_u: Scaled, u: Tensor) -> Scaled:
    """Record of ``[s, u]`` from those of ``[0, s]`` and ``[0, u]``: the inverse of :func:`join`."""
    W = to_u.W - to_s.W
    if to_u.H is None or to_s.H is None:
        return Scaled(W, None, None)
    q = u * to_s.W - s * to_u.W
    H = to_u.H - to_s.H - 0.5 * q
    if to_u.K is None or to_s.K is None:
        return Scaled(W, H, None)
    K = to_u.K - to_s.K - 0.5 * (u - s) * to_s.H + 0.5 * s * H - ((u - 2 * s) / 12) * q
    return Scaled(W, H, K)


def split(parent: Scaled, h: float | Tensor, z: Tensor) -> tuple[Scaled, Scaled]:
    """Halve an interval of length h; ``z`` holds as many standard normals (last axis) as there are integrals.

    The conditional law of both halves given the whole (Foster 2020, theorem 6.1.6); joined again they give
    the parent back.
    """
    W = parent.W
    if parent.H is None:
        noise = (0.5 * h**0.5) * z[..., 0]
        return Scaled(0.5 * W + noise, None, None), Scaled(0.5 * W - noise, None, None)
    if parent.K is None:
        tilt = (0.25 * h**0.5) * z[..., 0]
        swing = (0.25 * h * (h / 12) ** 0.5) * z[..., 1]
        K_left = K_right = None
    else:
        tilt = (h / 16) ** 0.5 * z[..., 0]
        bend = (h / 768) ** 0.5 * z[..., 1]
        swing = (15 / (8 * h)) * parent.K + 0.5 * h * bend
        rest = (0.25 * h * h * (h / 2880) ** 0.5) * z[..., 2]
        K_mean = parent.K / 32 - (h * h / 8) * bend
        K_left, K_right = K_mean + rest, K_mean - rest
    lean = (1.5 / h) * parent.H + tilt
    H_mean = parent.H / 8 - (0.25 * h) * tilt
    return Scaled(0.5 * W + lean, H_mean + swing, K_left), Scaled(0.5 * W - lean, H_mean - swing, K_right)


def mirrored(record: Scaled) -> Scaled:
    """Record of the interval walked backwards."""
    return record._replace(H=None if record.H is None else -record.H)


def cut(parent: Scaled, p: Tensor, z: Tensor) -> tuple[Scaled, Scaled]:
    """Cut a unit interval at a fraction of it: the shorter part is drawn, the longer one is what is left.

    A short part by difference would lose its digits, first of all those of K; so a cut behind the middle is
    one before it, walked backwards. The signs of the normals are such that the path is the same on both sides
    of the middle.

    Parameters
    ----------
    parent
        Record of the unit interval.
    p
        Fraction in (0, 1), broadcast against the integrals.
    z
        Standard normals, one a stored integral along the last axis.
    """
    late = p > 0.5
    short, sign = torch.minimum(p, 1 - p), torch.where(late, -1.0, 1.0).to(z).unsqueeze(-1)
    sign = torch.cat((sign, torch.ones_like(sign), sign), dim=-1)[..., : z.shape[-1]]
    whole = each(lambda a, b: torch.where(late, b, a), parent, mirrored(parent))
    drawn = interpolate(whole, short, sign * z)
    left = difference(drawn, short, whole, torch.ones_like(short))
    return (
        each(lambda a, b: torch.where(late, b, a), drawn, mirrored(left)),
        each(lambda a, b: torch.where(late, b, a), left, mirrored(drawn)),
    )


def interpolate(parent: Scaled, p: Tensor, z: Tensor) -> Scaled:
    """Record of the left part ``[0, p]`` of a unit interval given the whole (Foster 2020, theorem 6.1.4).

    Parameters
    ----------
    parent
        Record of the unit interval.
    p
        Fraction in (0, 1), broadcast against the integrals. Towards 1 the factor of the covariance loses its
        digits: see :func:`cut`.
    z
        Standard normals, one a stored integral along the last axis.
    """
    q = 1 - p
    if parent.H is None:
        return Scaled(p * parent.W + (p * q).sqrt() * z[..., 0], None, None)
    if parent.K is None:
        root, half = (p**3 + q**3).sqrt(), (p * q).sqrt() / 2
        A, B = p**3 * half / root, q**3 * half / root
        C = (3 * (p * q) ** 3).sqrt() / (6 * root)
        W = p * parent.W + 6 * p * q * parent.H + 2 * (A + B) * z[..., 0]
        return Scaled(W, p**3 * parent.H - A * z[..., 0] + C * z[..., 1], None)
    return _interpolate_triple(parent.W, parent.H, parent.K, p, q, z)


def _interpolate_triple(W: Tensor, H: Tensor, K: Tensor, p: Tensor, q: Tensor, z: Tensor) -> Scaled:
    """Triple case of :func:`interpolate`; a Cholesky factor, for it is continuous in p."""
    ww = p * q * ((p - q) ** 4 + 4 * (p * q) ** 2)
    wh = -(p**3) * q * (p * p - 3 * p * q + 6 * q * q) / 2
    wk = p**4 * q * (p - q) / 12
    hh = p / 12 * (1 - p**3 * (p * p + 2 * p * q + 16 * q * q))
    hk = -q / 24 * p**5
    kk = p / 720 * (1 - p**5)
    l11 = ww.clamp(min=_TINY).sqrt()
    l21, l31 = wh / l11, wk / l11
    l22 = (hh - l21 * l21).clamp(min=_TINY).sqrt()
    l32 = (hk - l31 * l21) / l22
    l33 = (kk - l31 * l31 - l32 * l32).clamp(min=0.0).sqrt()
    noise_W = l11 * z[..., 0]
    noise_H = l21 * z[..., 0] + l22 * z[..., 1]
    noise_K = l31 * z[..., 0] + l32 * z[..., 1] + l33 * z[..., 2]
    mean_W = p * W + 6 * p * q * H + 120 * p * q * (0.5 - p) * K
    mean_H = p * p * (H + 30 * q * K)
    mean_K = p**3 * K
    return Scaled(mean_W + noise_W, p * (mean_H + noise_H), p * p * (mean_K + noise_K))
