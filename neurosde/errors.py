"""Errors of the package: each says which argument, where, what was expected and what came."""


class NeuroSDEError(Exception):
    """Root of every error that the package raises on purpose."""


class DataError(NeuroSDEError, ValueError):
    """Data or an argument that cannot be used: the message names it and the first offending index."""


class ShapeError(NeuroSDEError, ValueError):
    """An array whose axes are not the ones expected: the message names the axes."""


class NotConvergedError(NeuroSDEError):
    """An iteration that stopped without reaching its goal; the last finite state is kept."""


class SolveError(NeuroSDEError):
    """A solve in which at least one series did not reach its last requested time."""


class CheckpointError(NeuroSDEError):
    """A model file or checkpoint that cannot be read: truncated, of another class, or of another version."""


class UnsafeFileError(NeuroSDEError):
    """A file that was refused before anything in it was run or allocated."""
