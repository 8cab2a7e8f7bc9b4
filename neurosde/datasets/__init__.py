"""The catalogue of datasets: cards that say what a set is, and one call that loads it as a record.

A dataset is a folder of ``datasets/`` (in an installed wheel, of ``neurosde/_catalogue/``) with a
``card.toml`` and a ``prepare.py``. To add one, add a folder; nothing else knows their names.
"""

from neurosde.datasets.cards import card, names
from neurosde.datasets.files import find
from neurosde.datasets.loading import load

__all__ = ["card", "find", "load", "names"]
