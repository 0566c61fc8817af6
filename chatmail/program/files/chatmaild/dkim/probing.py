"""A probe: the code of the filter signs a message, and the code of the filter verifies it."""

from chatmaild.common.errors import OperatorError
from chatmaild.common.refusals import Refusal
from chatmaild.dkim import key_files, signing, verifying


def probe(settings: dict, txt: dict[str, list[str]]) -> dict[str, str]:
    """Sign a message with each key that signs now, and verify it with the records in DNS.

    txt: the TXT values in DNS, by name.
    Returns {selector: "verified", or the reason why another relay would refuse the message}.
    Raises OperatorError when the filter could not sign with the keys on this machine.
    """
    domain = settings["mail_domain"]
    author = f" probe@{domain}".encode()
    fields = [
        (b"From", author),
        (b"To", author),
        (b"Subject", b" [...]"),
        (b"Date", b" Thu, 1 Jan 1970 00:00:00 +0000"),
        (b"Message-ID", f" <probe@{domain}>".encode()),
    ]
    try:
        keys = signing.load_keys(key_files.DIRECTORY)
    except (OSError, ValueError) as error:
        raise OperatorError(f"the filter could not sign: {error}") from error
    outcome = {}
    for key in keys:
        [signature] = signing.signature_fields(fields, b"probe\r\n", domain, [key])
        signed = [(b"DKIM-Signature", signature), *fields]
        try:
            verifying.check_signatures(
                signed,
                b"probe\r\n",
                domain,
                lambda name, _: [value.encode() for value in txt.get(name, [])],
            )
            outcome[key.selector] = "verified"
        except Refusal as refusal:
            outcome[key.selector] = str(refusal)
    return outcome
