"""The door between users' data and the records: tables, arrays, AnnData, xarray and files."""

from neurosde.io.annotated import snapshots_from_anndata, to_uns
from neurosde.io.kinds import Query, as_query, as_series, like
from neurosde.io.labelled import paths_to_xarray, series_to_xarray
from neurosde.io.readers import read_physionet2012, read_series, read_ts

__all__ = [
    "Query",
    "as_query",
    "as_series",
    "like",
    "paths_to_xarray",
    "read_physionet2012",
    "read_series",
    "read_ts",
    "series_to_xarray",
    "snapshots_from_anndata",
    "to_uns",
]
