"""Brownian and fractional noise, keyed so that a path is a pure function of its seed (floor 1)."""

from neurosde.noise.brownian import BrownianPath
from neurosde.noise.keys import as_seed, chain, normal, normals, series_keys
from neurosde.noise.records import BrownianIncrement, Levy
from neurosde.noise.steps import AbstractNoise, FreshNoise, StepDraws, StepNoise

__all__ = [
    "AbstractNoise",
    "BrownianIncrement",
    "BrownianPath",
    "FreshNoise",
    "Levy",
    "StepDraws",
    "StepNoise",
    "as_seed",
    "chain",
    "normal",
    "normals",
    "series_keys",
]
