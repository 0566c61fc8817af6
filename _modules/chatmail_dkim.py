"""Make, show, check and rotate the DKIM keys of this relay (RFC 6376, RFC 8463).

Private keys lie in `/etc/chatmail/dkim/<selector>.pem` and never leave the machine: no function
returns one. `signing.json` beside them says which keys the filter signs with, which are the next
ones and which are retired. The program does the work (`chatmaild.dkim`, `chatmaild.rotation`).

Functions about records go by the settings that the machine runs with, and before the first converge
by those of the pillar.
"""

from salt.exceptions import CommandExecutionError

__virtualname__ = "chatmail_dkim"
__func_alias__ = {"list_": "list"}

# Signs mail, and reads the keys.
FILTER_USER = "chatmail-filter"


def __virtual__():
    return __virtualname__


def new_selector(algorithm):
    """Return the free selector that a key made today gets: the algorithm's letter and the day.

    algorithm: rsa-sha256 or ed25519-sha256.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.new_selector ed25519-sha256
    """
    return _ask("new_selector", algorithm=algorithm)


def generate(selector=None, algorithm="rsa-sha256", bits=2048):
    """Make a private key; nothing signs with it until `sign_with` or a rotation says so.

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
    """List the keys of this machine.

    Returns {selector: {"algorithm", "bits", "status", "since", "permissions"}}. The status is
    signing, next (made for a rotation that waits for DNS), retired (its record stays for a while)
    or unused; the keys stand in this order. "since" is when that status began, for an unused key
    when its file was written.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.list
    """
    return _ask("list")


def protect(selector):
    """Give a private key to root and the filter's group alone: 0640 root:chatmail-dkim.

    Returns the permissions as `list` shows them.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.protect spring
    """
    return _ask("protect", selector=selector)


def sign_with(selectors):
    """Sign from now on with these keys, whether or not DNS has them: `rotate` looks first.

    selectors: list of selectors, or one text with commas; each gets a signature of its own.
    Returns the list. Keys that signed until now count as retired. The filter follows by itself.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.sign_with spring,r20261122
    """
    return _ask("sign_with", selectors=selectors)


def txt(selector):
    """Return what the TXT record of a key says.

    Returns {"name", "value", "chunks"}: the value as one text, and the same as the strings of at
    most 255 bytes that a zone file wants.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.txt spring
    """
    return _ask("txt", settings=_settings(), selector=selector)


def records():
    """Return the TXT records that DNS must have: of the next, the signing and the retired keys.

    Returns a list of {"name", "type", "ttl" in seconds, "value"}; the value is one text, unsplit.
    A retired key is left out once it is `dkim:retire_after` days old. On a relay that is a bare IP
    address the list is empty.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.records
    """
    return _ask("records", settings=_settings())


def withdrawn():
    """Return the names of records that DNS should have no longer: of keys retired long enough.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.withdrawn
    """
    return _ask("withdrawn", settings=_settings())


def verify():
    """Tell whether private keys, signing.json and the TXT records in DNS agree.

    Returns {"result", "problems", "keys"}; keys is what `list` says, each key with "dns" added: ok,
    missing, wrong or not needed, as all authoritative servers answer. A problem is one sentence.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.verify
    """
    return _ask("verify", part="rotation", settings=_settings())


def probe():
    """Sign a message with the filter's own code and verify it with the keys that DNS has.

    Returns {selector: "verified" or what the filter of another relay would refuse it with}, of
    the keys that sign. Nothing is sent.

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


def plan(days=None, settings=None):
    """Return what `rotate` and `withdraw` would do now, with DNS that takes and gives the records.

    days: age at which a key is replaced; without it, only a rotation that has begun goes on.
    settings: the relay's settings; those that it runs with if not given.
    Returns lists of selectors: {"signing": now, "next": that would sign, [] where no rotation would
    begin or go on, "withdraw": whose records and keys would go}.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.plan days=90
    """
    return _ask("plan", part="rotation", settings=_settings(settings), days=days)


def rotate(wait=300, force=False, settings=None):
    """Replace the keys that sign, without a moment in which nobody can verify a signature.

    Goes on where an earlier call stopped: makes the next keys; publishes their records, or returns
    them for publishing by hand; waits until each authoritative server answers them; signs with
    them from then on. The old records stay `dkim:retire_after` days for mail on its way, then
    `withdraw` removes them. No second rotation begins before that.

    wait: seconds to wait for the name servers; 0 asks them once.
    force: begin a rotation although the last one's keys are still in DNS.
    settings: the relay's settings; those that it runs with if not given.
    Returns {"step", "comment", "signing", "publish"}: the step is waiting, switched or retiring;
    publish has the records that are still to be published.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.rotate wait=60
    """
    settings = _settings(settings)
    hook = settings["dns"]["hook"]
    if hook:
        withdraw(settings)
    given = {"part": "rotation", "settings": settings, "force": force}
    told = _ask("rotate", wait=0 if hook else wait, **given)
    if hook and told["step"] == "waiting":
        # Salt calls the hook, and the program goes on where it waits for DNS.
        __salt__["chatmail_dns.publish"]([record["name"] for record in told["publish"]], settings)
        told = _ask("rotate", wait=wait, **given)
    return told


def withdraw(settings=None):
    """Remove the records of keys that were retired `dkim:retire_after` days ago, then the keys.

    settings: the relay's settings; those that it runs with if not given.
    Returns {"withdrawn", "remove"}: the selectors forgotten now, and the names whose TXT records
    an operator without `dns:server` and `dns:hook` has to remove first.

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
    """Have the program do something; what only reads and writes keys needs no settings."""
    return __salt__["chatmail_program.call"](
        part, command, arguments, settings=settings or {}, user=user
    )
