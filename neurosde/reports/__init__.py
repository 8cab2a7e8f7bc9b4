"""What the command line computes, prints, draws and saves: one report a kind of data."""

from neurosde.reports.bridges import bridge_report
from neurosde.reports.forecasts import draw_forecasts, forecast_report
from neurosde.reports.report import Report

__all__ = ["Report", "bridge_report", "draw_forecasts", "forecast_report"]
