"""The file of a TSIG key (RFC 8945), in the form that tsig-keygen writes."""

import base64
import os
import re
from typing import NamedTuple

from chatmaild.common.errors import OperatorError


class TsigKey(NamedTuple):
    """The content of the file. The secret is in base64."""

    name: str
    algorithm: str
    secret: str


def read_tsig_key(path: str | os.PathLike) -> TsigKey:
    """Return the key in a file. Raises OperatorError, whose text never contains the secret."""
    try:
        with open(path, encoding="utf-8") as file:
            text, mode = file.read(), os.fstat(file.fileno()).st_mode
    except (OSError, ValueError) as error:
        raise OperatorError(f"the TSIG key cannot be read: {error}") from error
    if mode & 0o007:
        raise OperatorError(f"everybody may read {path}: `chmod 0600 {path}` first")
    found = re.search(r'key\s+"?([^"\s{]+)"?\s*\{(.*?)\}', text, re.DOTALL)
    parts = dict(re.findall(r'(algorithm|secret)\s+"?([^";\s]+)"?\s*;', found[2] if found else ""))
    try:
        base64.b64decode(parts["secret"], validate=True)
        return TsigKey(found[1], parts["algorithm"].lower(), parts["secret"])
    except (KeyError, ValueError):
        pass  # The error below has no cause: the text of this one would contain the secret.
    raise OperatorError(
        f"{path} holds no TSIG key: expected what tsig-keygen writes, "
        '`key "name" { algorithm hmac-sha256; secret "…"; };`'
    )
