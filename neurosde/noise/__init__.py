"""Brownian and fractional noise, keyed so that a path is a pure function of its seed (floor 1)."""

from neurosde.noise.brownian import AbstractNoise, BrownianPath, StepNoise
from neurosde.noise.keys import as_seed, chain, normal, normals, series_keys
from neurosde.noise.records import BrownianIncrement, Levy

__all__ = [
    "AbstractNoise",
    "BrownianIncrement",
    "BrownianPath",
    "Levy",
    "StepNoise",
    "as_seed",
    "chain",
    "normal",
    "normals",
    "series_keys",
]
