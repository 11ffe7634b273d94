"""What can go wrong for a user, as types. Each message says what happened, what was expected, what to do."""

from __future__ import annotations


class Dp3dError(Exception):
    """Base of every error a user can meet.

    Attributes:
        reason: short, stable, kebab-case cause for records and scripts ("no-face", "unreadable-image").
        exit_status: status of a command that this error ends.
    """

    exit_status = 1

    def __init__(self, message: str, *, reason: str = "error") -> None:
        super().__init__(message)
        self.reason = reason


class InputError(Dp3dError):
    """One input cannot be used. Within a batch it fails its item and nothing else."""


class UsageError(Dp3dError):
    """The request itself makes no sense: wrong option, unknown preset, nothing to do."""

    exit_status = 2

    def __init__(self, message: str, *, reason: str = "usage") -> None:
        super().__init__(message, reason=reason)


class WeightsError(Dp3dError):
    """Weights are missing, damaged or do not fit the network. The message names the command that helps."""

    def __init__(self, message: str, *, reason: str = "weights") -> None:
        super().__init__(message, reason=reason)
