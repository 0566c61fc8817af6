"""Make, show, check and rotate the DKIM keys of this relay (RFC 6376, RFC 8463).

Private keys lie in `/etc/chatmail/dkim/<selector>.pem` and never leave the machine: no function
returns one. `signing.json` beside them says which keys the filter signs with, which are the next
ones and which are retired; it is replaced in one step, so that a rotation stopped anywhere can go
on. Needs `cryptography`, which Salt itself needs; what asks DNS needs `chatmail_dns`.
"""

import base64
import contextlib
import datetime
import fcntl
import grp
import json
import os
import re
import stat
import tempfile
import time
from pathlib import Path

from salt.exceptions import CommandExecutionError, SaltInvocationError

try:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False

__virtualname__ = "chatmail_dkim"
__func_alias__ = {"list_": "list"}

DIRECTORY = Path("/etc/chatmail/dkim")
# Whoever signs is in this group (chatmail/host makes it).
GROUP = "chatmail-dkim"
# What a signature names (RFC 6376 section 3.3, RFC 8463 section 3): a selector's first letter.
ALGORITHMS = {"rsa-sha256": "r", "ed25519-sha256": "e"}
RSA_BITS = (2048, 3072, 4096)
# A selector is one label here; RFC 6376 would allow dots, which no relay needs.
SELECTOR = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
UTC = datetime.timezone.utc  # noqa: UP017  Salt's own Python may be 3.10, which has no datetime.UTC
TTL = 3600
# RFC 1035 section 3.3: a character-string of a TXT record holds 255 bytes.
CHUNK = 255
# How long a rotation pauses before it asks the name servers again, in seconds.
PAUSE = 5

# Who signs mail, and the program that this user runs for `probe`: the filter's own code signs and
# verifies, with what DNS answered in place of a lookup. Reads and writes JSON.
FILTER_USER = "chatmail-filter"
PROBE = """
import json, sys
sys.path.insert(0, "/usr/local/lib/chatmail")
from chatmaild.common.refusals import Refusal
from chatmaild.dkim import signing, verifying
asked = json.load(sys.stdin)
domain = asked["domain"].encode()
fields = [
    (b"From", b" probe@" + domain), (b"To", b" probe@" + domain), (b"Subject", b" [...]"),
    (b"Date", b" Thu, 1 Jan 1970 00:00:00 +0000"), (b"Message-ID", b" <probe@" + domain + b">"),
]
lookup = lambda name, seconds: [value.encode() for value in asked["txt"].get(name, [])]
outcome = {}
for key in signing.load_keys():
    made = signing.signature_fields(fields, b"probe\\r\\n", asked["domain"], [key])
    signed = [(b"DKIM-Signature", made[0]), *fields]
    try:
        verifying.check_signatures(signed, b"probe\\r\\n", domain.decode(), lookup)
        outcome[key.selector] = "verified"
    except Refusal as refusal:
        outcome[key.selector] = str(refusal)
print(json.dumps(outcome))
"""


def __virtual__():
    if not HAS_CRYPTOGRAPHY:
        return False, "chatmail_dkim: the Python package `cryptography` is not in Salt's Python"
    return __virtualname__


# The files.


def _path(selector):
    """Return where the private key of a selector lies; refuse what is not a selector."""
    if not SELECTOR.fullmatch(str(selector)):
        raise SaltInvocationError(
            f"{selector!r} is no selector: use up to 63 lower-case letters, digits and hyphens"
        )
    return DIRECTORY / f"{selector}.pem"


def _signing():
    """Return {"selectors": [], "next": [], "retired": []}, lists of keys, from signing.json.

    Each key is {"selector", "algorithm", "since"}; "since" is when it entered its list, in UTC. A
    file that somebody else wrote may lack it: then the file's own time counts.
    """
    path = DIRECTORY / "signing.json"
    state = {"selectors": [], "next": [], "retired": []}
    try:
        state.update(json.loads(path.read_text()))
        written = _moment(path.stat().st_mtime)
    except FileNotFoundError:
        return state
    except (OSError, ValueError) as error:
        raise CommandExecutionError(
            f"{path} cannot be read ({error}): restore it, or remove it and run "
            "`state.apply chatmail.dkim`, which signs with the keys that it finds"
        ) from error
    return {name: [{"since": written} | key for key in keys] for name, keys in state.items()}


def _save(state):
    _write(DIRECTORY / "signing.json", json.dumps(state, indent=2).encode() + b"\n", replace=True)


def _write(path, content, replace=False):
    """Write a file of the filter's group, whole or not at all; never over an existing key."""
    group = _group()
    _make_directory()
    handle, aside = tempfile.mkstemp(dir=DIRECTORY, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchown(file.fileno(), 0, group)
            os.fchmod(file.fileno(), 0o640)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(aside, path)
        else:
            os.link(aside, path)
    except FileExistsError as error:
        raise CommandExecutionError(
            f"{path} exists already: a key is never overwritten; choose another selector"
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)


def _group():
    """Return the number of the filter's group."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError as error:
        raise CommandExecutionError(
            f"group {GROUP} does not exist: run `state.apply chatmail.host` first"
        ) from error


def _make_directory():
    """Make the directory of the keys where no converge has yet."""
    if not DIRECTORY.is_dir():
        DIRECTORY.mkdir(mode=0o750, parents=True)
        os.chown(DIRECTORY, 0, _group())


@contextlib.contextmanager
def _locked():
    """Let one process at a time change keys; a second one is told so at once."""
    _make_directory()
    handle = os.open(DIRECTORY, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise CommandExecutionError(
            f"another process changes the keys in {DIRECTORY}: wait for it, then run this again"
        ) from error
    finally:
        os.close(handle)


def _now():
    return datetime.datetime.now(UTC).replace(microsecond=0)


def _moment(seconds):
    """Return a time of the system's clock as ISO 8601 text in UTC."""
    return datetime.datetime.fromtimestamp(int(seconds), UTC).isoformat()


def _days_since(moment):
    """Return how many days ago an ISO 8601 moment was."""
    return (_now() - datetime.datetime.fromisoformat(moment)).total_seconds() / 86400


def _settings():
    return __salt__["chatmail_relay.settings"]()


# Keys.


def _load(selector):
    """Return the private key of a selector."""
    path = _path(selector)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise CommandExecutionError(
            f"{path} is missing: restore it from a backup, or remove {selector} from "
            f"{DIRECTORY / 'signing.json'} and run `state.apply chatmail.dkim` for a new key"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise CommandExecutionError(
            f"{path} holds no unencrypted private key in PEM form: restore it from a backup"
        ) from error
    _algorithm(key, selector)
    return key


def _algorithm(key, selector):
    if isinstance(key, rsa.RSAPrivateKey):
        return "rsa-sha256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519-sha256"
    raise CommandExecutionError(
        f"{_path(selector)} holds a key that DKIM does not know: expected RSA or Ed25519"
    )


def _value(key):
    """Return the TXT value of a private key's public half (RFC 6376 3.6.1, RFC 8463 4.2)."""
    if isinstance(key, rsa.RSAPrivateKey):
        kind, encoding = "rsa", serialization.Encoding.DER
        form = serialization.PublicFormat.SubjectPublicKeyInfo
    else:
        kind, encoding = "ed25519", serialization.Encoding.Raw
        form = serialization.PublicFormat.Raw
    octets = key.public_key().public_bytes(encoding, form)
    # s=email, t=s: only for mail, and only for addresses of exactly this domain.
    return f"v=DKIM1;k={kind};s=email;t=s;p={base64.b64encode(octets).decode()}"


def _record_name(selector, domain):
    return f"{selector}._domainkey.{domain}."


def _record(selector, domain):
    return {
        "name": _record_name(selector, domain),
        "type": "TXT",
        "ttl": TTL,
        "value": _value(_load(selector)),
    }


def new_selector(algorithm):
    """Return the free selector that a key made today gets: the algorithm's letter and the day.

    algorithm: rsa-sha256 or ed25519-sha256.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.new_selector ed25519-sha256
    """
    if algorithm not in ALGORITHMS:
        raise SaltInvocationError(
            f"algorithm {algorithm!r} is not known: use one of {', '.join(ALGORITHMS)}"
        )
    day = ALGORITHMS[algorithm] + _now().strftime("%Y%m%d")
    names = [day] + [f"{day}-{number}" for number in range(2, 1000)]
    return next(name for name in names if not _path(name).exists())


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
    if bits not in RSA_BITS:
        raise SaltInvocationError(f"bits {bits!r} are not possible: use 2048, 3072 or 4096")
    name = new_selector(algorithm)
    path = _path(selector or name)
    if algorithm == "rsa-sha256":
        key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    else:
        key = ed25519.Ed25519PrivateKey.generate()
    _write(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return {"selector": path.stem, "algorithm": algorithm, "path": str(path)}


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
    statuses = {"selectors": "signing", "next": "next", "retired": "retired"}
    listed = {
        key["selector"]: (status, key["since"])
        for name, status in statuses.items()
        for key in _signing()[name]
    }
    files = {path.stem for path in DIRECTORY.glob("*.pem") if SELECTOR.fullmatch(path.stem)}
    unused = files - set(listed)
    keys = {}
    for selector in [*listed, *sorted(unused)]:
        key, found = _load(selector), _path(selector).stat()
        status, since = listed.get(selector, ("unused", _moment(found.st_mtime)))
        keys[selector] = {
            "algorithm": _algorithm(key, selector),
            "bits": getattr(key, "key_size", 256),
            "status": status,
            "since": since,
            "permissions": _permissions(_path(selector)),
        }
    return keys


def _permissions(path):
    """Return mode, owner and group of a file as one text: 0640 root:chatmail-dkim."""
    found = path.stat()
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    owner = "root" if found.st_uid == 0 else str(found.st_uid)
    return f"{stat.S_IMODE(found.st_mode):04o} {owner}:{group}"


def protect(selector):
    """Give a private key to root and the filter's group alone: 0640 root:chatmail-dkim.

    Returns the permissions as `list` shows them.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.protect spring
    """
    path = _path(selector)
    try:
        os.chown(path, 0, _group())
        os.chmod(path, 0o640)
    except FileNotFoundError as error:
        raise CommandExecutionError(f"{path} is missing: there is no such key") from error
    return _permissions(path)


def sign_with(selectors):
    """Sign from now on with these keys, whether or not DNS has them: `rotate` looks first.

    selectors: list of selectors, or one text with commas; each gets a signature of its own.
    Returns the list. Keys that signed until now count as retired. The filter follows by itself.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.sign_with spring,r20261122
    """
    names = selectors.split(",") if isinstance(selectors, str) else list(selectors)
    with _locked():
        _switch(_signing(), names)
    return names


def _switch(state, names):
    """Write signing.json so that exactly the named keys sign."""
    if not names:
        raise SaltInvocationError("name at least one selector: a relay always signs")
    since = _now().isoformat()
    signing = {key["selector"]: key for key in state["selectors"]}
    fresh = {
        name: {"selector": name, "algorithm": _algorithm(_load(name), name), "since": since}
        for name in names
    }
    retired = [key | {"since": since} for name, key in signing.items() if name not in fresh]
    retired += [key for key in state["retired"] if key["selector"] not in fresh]
    _save(
        {
            "selectors": [signing.get(name, fresh[name]) for name in names],
            "next": [key for key in state["next"] if key["selector"] not in fresh],
            "retired": retired,
        }
    )


def txt(selector):
    """Return what the TXT record of a key says.

    Returns {"name", "value", "chunks"}: the value as one text, and the same as the strings of at
    most 255 bytes that a zone file wants.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.txt spring
    """
    record = _record(selector, _settings()["mail_domain"])
    value = record["value"]
    chunks = [value[start : start + CHUNK] for start in range(0, len(value), CHUNK)]
    return {"name": record["name"], "value": value, "chunks": chunks}


def records():
    """Return the TXT records that DNS must have: of the next, the signing and the retired keys.

    Returns a list of {"name", "type", "ttl" in seconds, "value"}; the value is one text, unsplit.
    A retired key is left out once it is `dkim:retire_after` days old. On a relay that is a bare IP
    address the list is empty.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.records
    """
    relay, state = _settings(), _signing()
    if not relay["dkim_required"]:
        return []
    wanted = state["selectors"] + state["next"] + _in_grace(relay, state)
    return [_record(key["selector"], relay["mail_domain"]) for key in wanted]


def _in_grace(relay, state):
    """Return the retired keys whose signatures may still be on their way."""
    return [
        key for key in state["retired"] if _days_since(key["since"]) < relay["dkim"]["retire_after"]
    ]


def withdrawn():
    """Return the names of records that DNS should have no longer: of keys retired long enough.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.withdrawn
    """
    relay, state = _settings(), _signing()
    if not relay["dkim_required"]:
        return []
    kept = _in_grace(relay, state)
    return [
        _record_name(key["selector"], relay["mail_domain"])
        for key in state["retired"]
        if key not in kept
    ]


# Against DNS.


def verify():
    """Tell whether private keys, signing.json and the TXT records in DNS agree.

    Returns {"result", "problems", "keys"}; keys is what `list` says, each key with "dns" added: ok,
    missing, wrong or not needed, as all authoritative servers answer. A problem is one sentence.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.verify
    """
    keys, problems, domain = list_(), [], _settings()["mail_domain"]
    answers = _in_dns([record["name"] for record in records()])
    for selector, key in keys.items():
        name = _record_name(selector, domain)
        key["dns"] = answers.get(name, "not needed")
        if key["dns"] in ("missing", "wrong"):
            problems.append(f"DNS: TXT {name} is {key['dns']}; see `chatmail_dns.check`")
        if key["permissions"] != f"0640 root:{GROUP}":
            problems.append(
                f"{_path(selector)} is {key['permissions']}, expected 0640 root:{GROUP}; "
                f"`chatmail_dkim.protect {selector}` corrects it"
            )
    for entry in _signing()["selectors"]:
        if keys[entry["selector"]]["algorithm"] != entry["algorithm"]:
            problems.append(
                f"signing.json takes {entry['selector']} for {entry['algorithm']}, and it is "
                f"{keys[entry['selector']]['algorithm']}; `chatmail_dkim.sign_with` corrects it"
            )
    if not any(key["status"] == "signing" for key in keys.values()):
        problems.append("no key signs: run `state.apply chatmail.dkim`")
    return {"result": not problems, "problems": problems, "keys": keys}


def _in_dns(names):
    """Return {name: status} of TXT records, as all authoritative servers answer them."""
    if not names:
        return {}
    found = __salt__["chatmail_dns.check"](names)
    return {entry["name"]: entry["status"] for entry in found["records"]}


def probe():
    """Sign a message with the filter's own code and verify it with the keys that DNS has.

    Returns {selector: "verified" or what the filter of another relay would refuse it with}, of
    the keys that sign. Nothing is sent.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.probe
    """
    domain = _settings()["mail_domain"]
    names = [_record_name(key["selector"], domain) for key in _signing()["selectors"]]
    if not names:
        raise CommandExecutionError("no key signs: run `state.apply chatmail.dkim`")
    found = __salt__["chatmail_dns.check"](names)
    told = {"domain": domain, "txt": {each["name"]: each["found"] for each in found["records"]}}
    done = __salt__["cmd.run_all"](
        ["/usr/bin/python3", "-c", PROBE],
        stdin=json.dumps(told),
        runas=FILTER_USER,
        cwd="/",
        python_shell=False,
        output_loglevel="quiet",
    )
    if done["retcode"]:
        raise CommandExecutionError(
            f"the filter's code could not sign ({done['stderr'].strip()[-300:]}): run "
            "`state.apply chatmail.services`"
        )
    return json.loads(done["stdout"])


# Rotation.


def rotate(wait=300, force=False):
    """Replace the keys that sign, without a moment in which nobody can verify a signature.

    Goes on where an earlier call stopped: makes the next keys; publishes their records, or returns
    them for publishing by hand; waits until each authoritative server answers them; signs with
    them from then on. The old records stay `dkim:retire_after` days for mail on its way, then
    `withdraw` removes them. No second rotation begins before that.

    wait: seconds to wait for the name servers; 0 asks them once.
    force: begin a rotation although the last one's keys are still in DNS.
    Returns {"step", "comment", "signing", "publish"}: the step is waiting, switched or retiring;
    publish has the records that are still to be published.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.rotate wait=60
    """
    if not _settings()["dkim_required"]:
        raise CommandExecutionError("a relay that is a bare IP address signs nothing")
    withdraw()
    with _locked():
        state = _signing()
        if state["retired"] and not state["next"] and not force:
            until = ", ".join(key["selector"] for key in state["retired"])
            return _step("retiring", f"the last rotation ends when {until} may leave DNS")
        if not state["next"]:
            state["next"] = [_make_next(algorithm) for algorithm in ALGORITHMS]
            _save(state)
        names = [key["selector"] for key in state["next"]]
        domain = _settings()["mail_domain"]
        wanted = [_record(name, domain) for name in names]
        if _publishes():
            __salt__["chatmail_dns.publish"]([record["name"] for record in wanted])
        problem = _await([record["name"] for record in wanted], wait)
        if problem:
            return _step("waiting", f"{problem}; run this again", wanted)
        _switch(state, names)
        return _step("switched", "the new keys sign; the old records stay in DNS for now")


def _make_next(algorithm):
    made = generate(algorithm=algorithm)
    return {
        "selector": made["selector"],
        "algorithm": algorithm,
        "since": _now().isoformat(),
    }


def _step(step, comment, publish=()):
    return {
        "step": step,
        "comment": comment,
        "signing": [key["selector"] for key in _signing()["selectors"]],
        "publish": list(publish),
    }


def _publishes():
    """Tell whether pillar says how to publish."""
    given = _settings()["dns"]
    return bool(given["server"] or given["hook"])


def _await(names, seconds):
    """Wait until each authoritative server answers the records; return what is missing, or None."""
    end = time.monotonic() + seconds
    while True:
        found = __salt__["chatmail_dns.check"](names)
        bad = [
            f"{each['name']} is {each['status']}"
            for each in found["records"]
            if each["status"] != "ok"
        ]
        servers = found["servers"].items()
        bad += [f"{server} {told}" for server, told in servers if told != "answers"]
        if not bad:
            return None
        if time.monotonic() >= end:
            return f"DNS is not ready: {'; '.join(bad)}"
        time.sleep(min(PAUSE, max(0, end - time.monotonic())))


def withdraw():
    """Remove the records of keys that were retired `dkim:retire_after` days ago, then the keys.

    Returns {"withdrawn", "remove"}: the selectors forgotten now, and the names whose TXT records
    an operator without `dns:server` and `dns:hook` has to remove first.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dkim.withdraw
    """
    names = withdrawn()
    if not names:
        return {"withdrawn": [], "remove": []}
    if _publishes():
        __salt__["chatmail_dns.publish"](names)
    found = __salt__["chatmail_dns.check"](names)["records"]
    present = [entry["name"] for entry in found if entry["found"]]
    gone = {name.partition(".")[0] for name in names if name not in present}
    with _locked():
        state = _signing()
        state["retired"] = [key for key in state["retired"] if key["selector"] not in gone]
        _save(state)
        for selector in gone:
            _path(selector).unlink(missing_ok=True)
    return {"withdrawn": sorted(gone), "remove": present}
