"""Our DKIM and DNS modules and states in this process, with keys, resolver and settings of a test.

The program that they call runs in this process, too, so that a test can change its constants. For
tests that run salt-call, Salt itself loads the modules, and Debian's Python runs the program.
"""

import grp
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from chatmaild.dkim import key_files
from chatmaild.dns import authoritative, records
from chatmaild.rotation import rotating
from support import dnsservers, in_process

REPOSITORY = Path(__file__).resolve().parents[2]
DOMAIN = "chat.example.org"
ADDRESSES = ["198.51.100.7", "2001:db8::7"]
ACCOUNT = "https://acme-v02.api.letsencrypt.org/acme/acct/123"


def settings(directory, **changed):
    """Return the settings that the modules read.

    changed: settings with other values. A setting `dns:name` is given as `name`.
    """
    given = {
        "addresses": ADDRESSES,
        "server": f"{dnsservers.PRIMARY}:53",
        "zone": None,
        "tsig_key_file": str(dnsservers.key_file(directory)),
        "hook": None,
        "caa_issuer": None,
    }
    relay = {
        "mail_domain": DOMAIN,
        "form": "domain",
        "dkim_required": True,
        "tls_mode": "acme",
        "acme_directory": "https://acme-v02.api.letsencrypt.org/directory",
        "mta_sts_id": "e3b0c44298fc1c149afbf4c8996fb924",
        "disable_ipv6": False,
        "dkim": {"rotate_after": None, "retire_after": 14},
    }
    relay |= {name: value for name, value in changed.items() if name in relay}
    given |= {name: value for name, value in changed.items() if name in given}
    unknown = set(changed) - set(relay) - set(given)
    assert not unknown, f"no such setting: {unknown}"
    return relay | {"dns": given}


def load(directory, relay):
    """Return the modules `dkim` and `dns`, the states `dkim_state` and `dns_state`, and `salt`.

    directory: where keys and the ACME account are. relay: the settings; a test may change them.
    """
    own = SimpleNamespace(salt={"chatmail_relay.settings": lambda: relay}, relay=relay)
    own.program = _load("_modules", "program", own.salt)
    own.program.SETTINGS = str(directory / "relay.json")
    for name in ("awaited", "call", "settings"):
        own.salt[f"chatmail_program.{name}"] = getattr(own.program, name)
    own.program.installed = lambda _part: True
    own.program._run = lambda command, request, _user: in_process.run(command, request)
    for short in ("dkim", "dns"):
        module = _load("_modules", short, own.salt)
        aliases = getattr(module, "__func_alias__", {})
        for name in list(vars(module)):
            if callable(vars(module)[name]) and vars(module)[name].__module__ == module.__name__:
                own.salt[f"chatmail_{short}.{aliases.get(name, name)}"] = vars(module)[name]
        setattr(own, short, module)
        setattr(own, f"{short}_state", _load("_states", short, own.salt))
    group = grp.getgrgid(os.getgid()).gr_name
    key_files.DIRECTORY = directory / "chatmail" / "dkim"
    key_files.GROUP = group
    own.dkim_state.PERMISSIONS = f"0640 root:{group}"
    rotating.PAUSE = own.dns_state.PAUSE = 0.05
    authoritative.RESOLV_CONF = str(directory / "resolv.conf")
    authoritative.QUESTION_TIMEOUT = 5
    (directory / "resolv.conf").write_text(f"nameserver {dnsservers.RESOLVER}\n")
    records.ACME_ACCOUNTS = directory / "accounts"
    account = records.ACME_ACCOUNTS / "acme-v02.api.letsencrypt.org" / "directory" / "0f"
    account.mkdir(parents=True, exist_ok=True)
    (account / "regr.json").write_text(f'{{"uri": "{ACCOUNT}"}}')
    return own


def _load(kind, short, salt):
    path = REPOSITORY / kind / f"chatmail_{short}.py"
    spec = importlib.util.spec_from_file_location(f"{kind}_{short}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__salt__, module.__opts__ = salt, {"test": False}
    return module


def make_keys(own):
    """Make an RSA and an Ed25519 key, and let the relay sign with them. Return their selectors."""
    generate = own.dkim.generate
    made = [generate(algorithm=algorithm)["selector"] for algorithm in key_files.ALGORITHMS]
    return own.dkim.sign_with(made)


def bad_records(own):
    """Return {"name type": found} of the records that `check` reports as missing or wrong."""
    return {
        f"{entry['name']} {entry['type']}": entry["found"]
        for entry in own.dns.check()["records"]
        if entry["status"] not in ("ok", "not needed")
    }


# A mount namespace with the files of a relay. /etc and /usr/local/lib are overlays that end with
# it. They have the test's /etc/chatmail, ACME account, resolv.conf and program, and the users.
MACHINE = """
set -e
mount -t tmpfs tmpfs "$1/layer"
for top in /etc /usr/local/lib; do
    upper=$1/layer/upper$top work=$1/layer/work$top
    mkdir -p "$upper" "$work"
    mount -t overlay overlay -o "lowerdir=$top,upperdir=$upper,workdir=$work" $top
done
rm -f /etc/resolv.conf
cp "$1/resolv.conf" /etc/resolv.conf
mkdir -p /etc/chatmail /etc/letsencrypt/accounts /usr/local/lib/chatmail
mount --bind "$1/chatmail" /etc/chatmail
mount --bind "$1/accounts" /etc/letsencrypt/accounts
mount --bind "$2" /usr/local/lib/chatmail
getent group chatmail-dkim > /dev/null || groupadd --system chatmail-dkim
getent passwd chatmail-filter > /dev/null || useradd --system --groups chatmail-dkim chatmail-filter
shift 2
exec "$@"
"""


def run_in_machine(directory, *argv, **options):
    """Run a program in a mount namespace that has the files of this test in the relay's places.

    directory: the directory that `load` got. Its keys are the keys of the relay.
    """
    for name in ("layer", "chatmail", "accounts"):
        (directory / name).mkdir(exist_ok=True)
    code = REPOSITORY / "chatmail" / "program" / "files"
    argv = ["unshare", "--mount", "sh", "-c", MACHINE, "sh", directory, code, *argv]
    return subprocess.run(list(map(str, argv)), capture_output=True, timeout=120, **options)


def salt_call(directory, *arguments, pillar, sls=None):
    """Run salt-call in the mount namespace of `run_in_machine`. Return the CompletedProcess.

    pillar: the mapping `chatmail`. sls: {name: text} of states beside those of the formula.
    """
    conf, roots = directory / "conf", directory / "roots"
    for each in (conf, roots, directory / "pillar"):
        each.mkdir(exist_ok=True)
    for name, text in (sls or {}).items():
        (roots / f"{name}.sls").write_text(text)
    for name in ("chatmail", "_modules", "_states"):
        if not (roots / name).is_symlink():
            (roots / name).symlink_to(REPOSITORY / name)
    (directory / "pillar" / "top.sls").write_text("base: {'*': [relay]}")
    (directory / "pillar" / "relay.sls").write_text(json.dumps({"chatmail": pillar}))
    minion = {
        "id": "relay",
        "root_dir": str(directory / "root"),
        "file_client": "local",
        "fileserver_followsymlinks": True,
        "file_roots": {"base": [str(roots)]},
        "pillar_roots": {"base": [str(directory / "pillar")]},
        "grains": {"os": "Debian", "os_family": "Debian", "osmajorrelease": 13},
    }
    (conf / "minion").write_text(json.dumps(minion))
    program = [Path(sys.executable).with_name("salt-call"), "--local", f"--config-dir={conf}"]
    return run_in_machine(directory, *program, *arguments, text=True)
