"""What the command line computes, prints, draws and saves: one report a kind of data."""

from neurosde.reports.forecasts import forecast_report
from neurosde.reports.report import Report

__all__ = ["Report", "forecast_report"]
