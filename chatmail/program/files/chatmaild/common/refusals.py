"""Why mail is not taken: the SMTP reply, and a word for the log."""


class Refusal(Exception):
    """A message or a recipient is not taken.

    reason: a word or two for the log, with nothing in it about the message.
    code, xcode, text: the SMTP reply; xcode, the enhanced status code, may be None.
    """

    def __init__(self, reason: str, code: str, xcode: str | None, text: str):
        super().__init__(reason)
        self.reason, self.code, self.xcode, self.text = reason, code, xcode, text
