"""The reason why the relay refuses mail: the SMTP reply, and a word for the log."""


class Refusal(Exception):
    """The relay refuses a message or a recipient.

    reason: a few words for the log, without any content of the message.
    code, xcode, text: the SMTP reply. `xcode` is the enhanced status code (RFC 3463) or None.
    """

    def __init__(self, reason: str, code: str, xcode: str | None, text: str):
        super().__init__(reason)
        self.reason, self.code, self.xcode, self.text = reason, code, xcode, text
