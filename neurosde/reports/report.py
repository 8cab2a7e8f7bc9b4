"""A table of scores with its baselines, and the files that were written beside it."""

import csv
import dataclasses
from pathlib import Path

from neurosde.typing import Sequence


@dataclasses.dataclass(frozen=True)
class Report:
    """Scores of a model beside its baselines.

    Parameters
    ----------
    title, note : str
        What was done; how to read the numbers.
    columns : sequence of str
        Names of the scores.
    rows : sequence of (str, sequence of float)
        Method and its scores; the model comes last.
    files : sequence of Path
        What was written.

    Examples
    --------
    >>> rows = [("last value", [2.0]), ("ours", [1.0])]
    >>> print(Report("Forecasts", "lower is better", ["MSE"], rows, []).text())
    Forecasts
                  MSE
      last value  2.000
      ours        1.000
      (lower is better)
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float]]]
    files: Sequence[Path]

    def text(self) -> str:
        """The report as plain text."""
        width = max(len(name) for name, _ in self.rows)
        widths = [max(len(column), 5) for column in self.columns]
        head = "  ".join(column.ljust(w) for column, w in zip(self.columns, widths, strict=True))
        lines = [self.title, f"  {'':{width}s}  {head}".rstrip()]
        for name, scores in self.rows:
            cells = "  ".join(f"{score:.3f}".ljust(w) for score, w in zip(scores, widths, strict=True))
            lines.append(f"  {name:{width}s}  {cells}".rstrip())
        return "\n".join([*lines, f"  ({self.note})", *(f"  wrote {path}" for path in self.files)])

    def write(self, path: Path) -> None:
        """Write the table as CSV."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["method", *self.columns])
            writer.writerows([name, *(f"{score:.6g}" for score in scores)] for name, scores in self.rows)
