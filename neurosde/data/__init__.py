"""Plain ragged records: irregular series, snapshots and logged trajectories, and their scales."""

from neurosde.data.scaling import ChannelScaler, TimeMap
from neurosde.data.series import Series
from neurosde.data.snapshots import Snapshots
from neurosde.data.trajectories import Trajectories

__all__ = ["ChannelScaler", "Series", "Snapshots", "TimeMap", "Trajectories"]
