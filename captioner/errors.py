"""The errors a user can cause. Each message names the file or setting, what is wrong, and the cure."""

PIP = ".venv/bin/python -m pip install"  # the cure of what is not installed


class CaptionerError(Exception):
    """Base of every error this package raises for bad input; its text is meant to be shown as it is."""


class ImageReadError(CaptionerError):
    """An image that cannot be turned into pixels."""


class DatasetError(CaptionerError):
    """Captions, split lists or stored features that are absent, malformed or do not fit together."""


class MissingSplitError(DatasetError):
    """A split that the data set does not have at all."""


class CheckpointError(CaptionerError):
    """A checkpoint that is absent, incomplete or does not fit the model it describes."""


class MetricUnavailableError(CaptionerError):
    """A metric that cannot run here; the text is the reason without the metric's name, such as "needs Java"."""
