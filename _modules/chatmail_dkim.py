"""Make, show, check and rotate the DKIM keys of this relay (RFC 6376, RFC 8463).

Private keys are in `/etc/chatmail/dkim/<selector>.pem` and never leave the machine: no function
returns one. The file `signing.json` beside them says which keys sign, which come next and which are
retired. The packages `chatmaild.dkim` and `chatmaild.rotation` do the work.

Functions about records use the settings that the relay runs with. Before the first converge they
use the settings of the pillar.
"""

from salt.exceptions import CommandExecutionError

__virtualname__ = "chatmail_dkim"
__func_alias__ = {"list_": "list"}

# The filter signs mail, so this user can read the keys.
FILTER_USER = "chatmail-filter"


def __virtual__():
    return __virtualname__


def new_selector(algorithm):
    """Return a selector for a new key: the algorithm's letter and the day, such as r20261122.

    algorithm: rsa-sha256 or ed25519-sha256.
    A number follows when that selector has a key already, such as r20261122-2.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.new_selector ed25519-sha256
    """
    return _ask("new_selector", algorithm=algorithm)


def generate(selector=None, algorithm="rsa-sha256", bits=2048):
    """Make a private key. The filter does not use it before `sign_with` or a rotation.

    selector: one DNS label; by default the algorithm's letter and the day, such as r20261122.
    algorithm: rsa-sha256 or ed25519-sha256.
    bits: 2048, 3072 or 4096; only for RSA.
    Returns {"selector", "algorithm", "path"}. An existing key is never overwritten.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.generate selector=spring algorithm=rsa-sha256 bits=3072
    """
    return _ask("generate", selector=selector, algorithm=algorithm, bits=bits)


def list_():
    """Return the keys of this machine.

    Returns {selector: {"algorithm", "bits", "status", "since", "permissions"}}. The status is
    signing, next (a rotation made the key and waits for DNS), retired (the record of the key stays
    in DNS for a while) or unused. The keys are in this order. "since" is the time at which the
    status began. For an unused key it is the time at which the file was written.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.list
    """
    return _ask("list")


def protect(selector):
    """Set owner and permissions of a private key: 0640 root:chatmail-dkim.

    Returns the permissions in the form that `list` shows.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.protect spring
    """
    return _ask("protect", selector=selector)


def sign_with(selectors):
    """Sign with exactly these keys from now on. Unlike `rotate`, this does not check DNS.

    selectors: a list of selectors, or one text with commas. Each key makes one signature.
    Returns the list. Other keys that signed until now become retired. The filter uses the new list
    at once.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.sign_with spring,r20261122
    """
    return _ask("sign_with", selectors=selectors)


def txt(selector):
    """Return the TXT record of a key: {"name", "value", "chunks"}.

    value: the record's value as one text. chunks: the same value as strings of at most 255 bytes,
    as a zone file needs them.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.txt spring
    """
    return _ask("txt", settings=_settings(), selector=selector)


def records():
    """Return the TXT records that DNS must have, for the next, the signing and the retired keys.

    Returns a list of {"name", "type", "ttl" in seconds, "value"}. The value is one text.
    A key that was retired `dkim:retire_after` days ago needs no record. On a relay without a domain
    the list is empty.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.records
    """
    return _ask("records", settings=_settings())


def withdrawn():
    """Return the names of the records that DNS should not have any more.

    They are the records of keys that were retired `dkim:retire_after` days ago or earlier.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.withdrawn
    """
    return _ask("withdrawn", settings=_settings())


def verify():
    """Check that private keys, signing.json and the TXT records in DNS agree.

    Returns {"result", "problems", "keys"}. result: whether there is no problem. problems: a list of
    sentences. keys: the result of `list`, where each key has "dns" too: ok, missing, wrong or not
    needed, as all authoritative servers answer.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.verify
    """
    return _ask("verify", part="rotation", settings=_settings())


def probe():
    """Sign a message with each key that signs now, and verify it with the records in DNS.

    The code of the filter does both. No message is sent. Returns {selector: "verified", or the
    reason why another relay would refuse the message}. Raises CommandExecutionError when no key
    signs.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.probe
    """
    settings = _settings()
    signing = [selector for selector, key in list_().items() if key["status"] == "signing"]
    if not signing:
        raise CommandExecutionError("no key signs: run `state.apply chatmail.dkim`")
    names = [f"{selector}._domainkey.{settings['mail_domain']}." for selector in signing]
    found = __salt__["chatmail_dns.check"](names, settings)
    txt = {each["name"]: each["found"] for each in found["records"]}
    return _ask("probe", settings=settings, user=FILTER_USER, txt=txt)


def rotate(wait=300, force=False, settings=None):
    """Replace the keys that sign. At every moment other servers can verify the signatures.

    A call goes on where the last one stopped. It makes the next keys. It publishes their records,
    or returns the records for publishing by hand. It waits until each authoritative server answers
    these records, and lets the new keys sign. The old records stay in DNS for `dkim:retire_after`
    days, for mail that is on its way. Then `withdraw` removes them. No second rotation begins
    before that.

    wait: seconds to wait for the name servers. With 0 they are asked once.
    force: begin a rotation although the keys of the last one are still in DNS.
    settings: the relay's settings; by default those that the relay runs with.
    Returns {"step", "comment", "signing", "publish"}. step: waiting, switched or retiring.
    signing: the selectors that sign. publish: the records that are not in DNS yet.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.rotate wait=60
    """
    settings = _settings(settings)
    hook = settings["dns"]["hook"]
    if hook:
        withdraw(settings)
    request = {"part": "rotation", "settings": settings, "force": force}
    found = _ask("rotate", wait=0 if hook else wait, **request)
    if hook and found["step"] == "waiting":
        # Only Salt can call the hook. After that, the program goes on with waiting for DNS.
        __salt__["chatmail_dns.publish"]([record["name"] for record in found["publish"]], settings)
        found = _ask("rotate", wait=wait, **request)
    return found


def withdraw(settings=None):
    """Remove the records of keys that were retired `dkim:retire_after` days ago, then the keys.

    settings: the relay's settings; by default those that the relay runs with.
    Returns {"withdrawn", "remove"}. withdrawn: the selectors whose keys were removed now. remove:
    the names of TXT records that the operator has to remove first, without `dns:server` and
    `dns:hook`.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.withdraw
    """
    settings = _settings(settings)
    if settings["dns"]["hook"] and (names := _ask("withdrawn", settings=settings)):
        __salt__["chatmail_dns.publish"](names, settings)
    return _ask("withdraw", part="rotation", settings=settings)


def _settings(given=None):
    return __salt__["chatmail_program.settings"](given)


def _ask(command, part="dkim", settings=None, user=None, **arguments):
    """Let the program run a command. Commands about the files of keys need no settings."""
    return __salt__["chatmail_program.call"](
        part, command, arguments, settings=settings or {}, user=user
    )
