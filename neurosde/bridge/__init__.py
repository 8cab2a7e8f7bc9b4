"""Schrödinger bridges between snapshots: closed forms, couplings of observed cells, and their composition."""

from neurosde.bridge.bridge import Bridge, BridgeSDE, LightBridge, LightInterval, systematic
from neurosde.bridge.coupling import displace, entropic_coupling, exact_coupling
from neurosde.bridge.gaussian import GaussianBridge
from neurosde.bridge.light import LightMixture, LightPotential, Plan, Quadratics
from neurosde.bridge.objective import LightObjective
from neurosde.bridge.reference import BrownianReference, LinearReference, Reference

__all__ = [
    "Bridge",
    "BridgeSDE",
    "BrownianReference",
    "GaussianBridge",
    "LightBridge",
    "LightInterval",
    "LightMixture",
    "LightObjective",
    "LightPotential",
    "LinearReference",
    "Plan",
    "Quadratics",
    "Reference",
    "displace",
    "entropic_coupling",
    "exact_coupling",
    "systematic",
]
