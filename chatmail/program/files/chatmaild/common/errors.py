"""Errors that the operator can correct."""


class OperatorError(Exception):
    """An action is impossible. The text says what was found, what is expected and what to do."""


class InvalidRequest(OperatorError):
    """The command does not accept one of the operator's arguments."""
