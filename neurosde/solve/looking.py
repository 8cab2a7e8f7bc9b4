"""Looks at values: what fields and costs give at the start, and whether states are finite."""

import math
import reprlib

import torch

from neurosde.errors import DataError, ShapeError
from neurosde.sde import SDE, RunningCost
from neurosde.typing import Any, Tensor


def look(sde: SDE, t: Tensor, y: Tensor) -> tuple[int, bool]:
    """Check what the fields give at the start; tell the noise channels, and whether a gradient flows.

    Raises
    ------
    ShapeError
        If a field does not have the shape that the noise type declares.
    DataError
        If it is no tensor, or of a dtype that the states cannot be stepped with.
    """
    fields, diagonal = sde.drift_and_diffusion(t, y), sde.noise_type == "diagonal"
    if not isinstance(fields, tuple | list) or len(fields) != 2:
        raise DataError(f"sde: drift_and_diffusion: expected a pair of tensors, got {reprlib.repr(fields)}.")
    f, g = fields
    _check_field("drift", f, y, tuple(y.shape), "(series, state)", "")
    n_noise, axes = y.shape[-1], "(series, state)"
    if not diagonal:
        several = sde.noise_type != "scalar" and isinstance(g, Tensor) and g.dim() > 0
        n_noise, axes = g.shape[-1] if several else 1, "(series, state, noise)"
    wanted = tuple(y.shape) if diagonal else (*y.shape, n_noise)
    _check_field("diffusion", g, y, wanted, axes, f" for {sde.noise_type} noise")
    if not diagonal and g.dtype != y.dtype:
        raise DataError(
            f"sde: diffusion: expected the dtype of the states, {y.dtype}, for it is multiplied with noise "
            f"of that dtype; got {g.dtype}. Return diffusion.to(y)."
        )
    return n_noise, f.requires_grad or g.requires_grad


def _check_field(name: str, field: Any, y: Tensor, wanted: tuple[int, ...], axes: str, noise: str) -> None:
    if not isinstance(field, Tensor):
        raise DataError(
            f"sde: {name}: expected a tensor {axes} = {wanted}{noise}, got {reprlib.repr(field)} of type "
            f"{type(field).__name__}; a constant c is torch.full_like(y, c)."
        )
    if tuple(field.shape) != wanted:
        raise ShapeError(f"sde: {name}: expected {axes} = {wanted}{noise}, got {tuple(field.shape)}.")
    if field.dtype == torch.bool or torch.promote_types(field.dtype, y.dtype) != y.dtype:
        raise DataError(
            f"sde: {name}: expected the dtype of the states, {y.dtype}, got {field.dtype}, which the states "
            f"would turn into; return {name}.to(y), or give y0 in that dtype."
        )


@torch.no_grad()
def look_at_costs(running: tuple[RunningCost, ...], t: Tensor, y: Tensor, n_noise: int) -> None:
    """Check what the running costs give at the start.

    Raises
    ------
    ShapeError
        If it is no tensor with one entry a series (and one a noise channel, of an integrand).
    DataError
        If it is complex.
    """
    why = "; with exits or adaptive steps t is (series, 1), so write t.squeeze(-1)" if t.dim() else ""
    for cost in running:
        for field, kind, axes in (
            (cost.c, "a rate", "(series,)"),
            (cost.h, "an integrand", "(series, noise)"),
        ):
            if field is None:
                continue
            wanted, value = (len(y),) if kind == "a rate" else (len(y), n_noise), field(t, y)
            if not isinstance(value, Tensor) or tuple(value.shape) != wanted:
                got = tuple(value.shape) if isinstance(value, Tensor) else reprlib.repr(value)
                raise ShapeError(
                    f"running: {cost.name!r}: expected {kind} {axes} = {wanted}, got {got}; one that is the "
                    f"same for all is written with expand{why}."
                )
            if value.is_complex():
                raise DataError(
                    f"running: {cost.name!r}: expected {kind} of real numbers, got {value.dtype}."
                )


def is_finite(y: Tensor) -> bool:
    """Whether no entry is infinite or NaN: a finite sum says so at once."""
    return math.isfinite(float(y.detach().sum())) or bool(torch.isfinite(y).all())
