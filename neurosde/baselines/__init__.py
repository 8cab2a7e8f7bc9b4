"""Trivial forecasters that every score stands beside; a forecaster that loses to them has learned nothing."""

from neurosde.baselines.forecaster import Forecaster
from neurosde.baselines.persistence import LastValue, PatientMean, TrainMean
from neurosde.baselines.regression import RidgeForecaster, ShrunkForecaster

__all__ = ["Forecaster", "LastValue", "PatientMean", "RidgeForecaster", "ShrunkForecaster", "TrainMean"]
