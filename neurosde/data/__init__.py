"""Plain ragged records: observations of many series."""

from neurosde.data.series import Series

__all__ = ["Series"]
