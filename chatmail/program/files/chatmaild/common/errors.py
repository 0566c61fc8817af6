"""What goes wrong in a way that the operator can put right."""


class OperatorError(Exception):
    """Something cannot be done. The text says what was found, what is expected and what to do."""


class InvalidRequest(OperatorError):
    """An argument of the operator's is none that the command takes."""
