"""The exceptions a user of palquant can meet: each message is one line that says what, where, why.

Every class derives from :class:`PalquantError`, so that ``except PalquantError`` catches all that
is the user's to mend; anything else that escapes is a defect of the package.
"""


class PalquantError(Exception):
    """Base of all errors that describe a mistake in input, configuration or environment."""


class ConfigurationError(PalquantError, ValueError):
    """A setting of a network, of a layer or of a training that is out of its range."""


class GeometryError(PalquantError, ValueError):
    """A geometry's parameters contradict each other, or no preset has the given name."""


class InstructionError(PalquantError, ValueError):
    """An instruction field does not fit its width, or an instruction is not executable."""


class GraphError(PalquantError, ValueError):
    """The integer graph is not legal: names the node, what was found and what is supported."""


class UnsupportedLayerError(GraphError):
    """A layer that the accelerator or the exporter does not support."""


class RangeError(PalquantError, ValueError):
    """A value could overflow the register that holds it: names layer, channel, bound, register."""


class CapacityError(PalquantError, ValueError):
    """A tile does not fit a memory: names the layer, the memory and the size that would do."""


class PackingError(PalquantError, ValueError):
    """Values that cannot be represented exactly in the requested layout."""


class ImageError(PalquantError, ValueError):
    """A memory image that is truncated, corrupted, or built for another geometry or version."""


class ModelError(PalquantError, ValueError):
    """A model or checkpoint file with missing, extra, wrongly shaped or non-finite entries."""


class InputError(PalquantError, ValueError):
    """Network input of the wrong shape, type or range."""


class OutputError(PalquantError, OSError):
    """A file or folder that cannot be written: a full disk, a missing right, a wrong kind."""


class ToolError(PalquantError, RuntimeError):
    """A tool that is needed is missing or failed."""


class ExecutionError(PalquantError, RuntimeError):
    """The accelerator (RTL or emulator) ended with an error status."""


class MismatchError(PalquantError, AssertionError):
    """Two implementations disagree: names layer, group, channel, y, x, expected and actual.

    Parameters:
        message: The first difference.
        report: The whole comparison, if there is one, as a JSON-serialisable dictionary.
    """

    def __init__(self, message: str, report: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.report = report


def first_line(error: Exception) -> str:
    """What another library's exception says, in one line; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "").rstrip() or type(error).__name__


def in_words(error: Exception) -> str:
    """Why a document cannot be read, in one line without the names of Python's exceptions."""
    if isinstance(error, KeyError):
        return f"no entry {error.args[0]!r}" if error.args else "an entry is missing"
    return first_line(error)
