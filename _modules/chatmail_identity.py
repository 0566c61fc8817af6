"""Prove to a master that a value comes from this minion.

Salt 3008.3 tells each minion of all jobs, and takes answers in the name of another minion: events
with the tag `salt/job/<job>/ret/<other>`, and returns with a `resource_id`. A signature by the
minion's own key, whose public half the operator has accepted, cannot be made by another one.
"""

import base64
import os

import salt.crypt

__virtualname__ = "chatmail_identity"


def __virtual__():
    return __virtualname__


def sign(text):
    """Return the signature of a text by the key of this minion, in base64.

    Returns "" where there is no such key, as with `salt-call --local`.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_identity.sign 'chatmail_move ssh-ed25519 AAAA…'
    """
    path = os.path.join(__opts__["pki_dir"], "minion.pem")
    if not os.path.exists(path):
        return ""
    return base64.b64encode(salt.crypt.sign_message(path, text.encode())).decode()
