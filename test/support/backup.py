"""Relays made of directories, for the tests of backup and restore, and archives made by hand."""

import contextlib
import functools
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

from chatmaild.accounts import invitations, mailboxes, nocreate, sessions
from chatmaild.backup import creating, machine
from chatmaild.certificate import certbot, installing
from chatmaild.dkim import key_files

DOMAIN = "chat.example.org"
DIRECTORY = "https://ca.example/directory"
ACCOUNT = "etc/letsencrypt/accounts/ca.example/directory"
DAY = 20_000 * 24 * 3600
PASSWORD, TOKEN = "a good password", "fcm-token-of-alice"
INVITATION = {"uses": 2, "until": 4_000_000_000, "note": "choir"}
INVITED = "ab" * 32
SECRETS = [b"DKIM RSA KEY", b"DKIM ED KEY", b"NEXT KEY", b"TURN SECRET", b"ACCOUNT KEY"]


def make_key(directory):
    """Make an age key; return the path of the private key, and the recipient."""
    path = directory / "key.txt"
    subprocess.run(["age-keygen", "-o", str(path)], check=True, capture_output=True)
    done = subprocess.run(["age-keygen", "-y", str(path)], check=True, capture_output=True)
    return path, done.stdout.decode().strip()


class Machine:
    """A relay in a directory. `use()` lets the program work on it."""

    def __init__(self, root, recipient, domain=DOMAIN, **settings):
        self.root, self.mail = root, root / "home/vmail/mail"
        self.invitations = root / "var/lib/chatmail-accounts/invitations"
        self.archives = root / "archives"
        for path in (self.mail, self.invitations.parent, root / "etc/chatmail/tls", root / "run"):
            path.mkdir(parents=True)
        self.archives.mkdir()
        self.settings = {
            "mail_domain": domain,
            "address_domain": domain,
            "mailboxes_dir": str(self.mail),
            "tls_mode": "acme",
            "acme_directory": DIRECTORY,
            "backup_recipients": [recipient],
            **settings,
        }

    def use(self, monkeypatch):
        """Let the program work on this machine, without root and without systemd."""
        etc = self.root / "etc"
        monkeypatch.setattr(machine, "ROOT", self.root)
        monkeypatch.setattr(machine, "_number", lambda user, group: (os.getuid(), os.getgid()))
        monkeypatch.setattr(machine, "_restart_coturn", lambda: None)
        monkeypatch.setattr(key_files, "DIRECTORY", etc / "chatmail/dkim")
        monkeypatch.setattr(key_files, "_find_group", os.getgid)
        monkeypatch.setattr(os, "chown", lambda *_: None)
        monkeypatch.setattr(installing, "TLS", etc / "chatmail/tls")
        monkeypatch.setattr(installing, "_reload_daemons", lambda: None)
        monkeypatch.setattr(invitations, "DIRECTORY", self.invitations)
        monkeypatch.setattr(nocreate, "NOCREATE", etc / "chatmail-nocreate")
        monkeypatch.setattr(sessions, "acting_as", lambda _user: contextlib.nullcontext())
        monkeypatch.setattr(creating, "ARCHIVES", self.archives)
        monkeypatch.setattr(creating, "LOCK", self.root / "run/lock")
        monkeypatch.setattr(creating, "RESTORING", etc / "chatmail/restoring")
        return self

    def write(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def add_address(self, name, blocked=False, tokens=(TOKEN,), password=PASSWORD):
        """Create an address as the relay does, with a day of the last login."""
        address = f"{name}@{self.settings['address_domain']}"
        mailboxes.create(self.mail, address, password)
        home = self.mail / address
        os.utime(home / "password", (DAY, DAY))
        if tokens:
            content = {"devicetoken": dict.fromkeys(tokens, DAY)}
            (home / "metadata.json").write_text(json.dumps(content))
        if blocked:
            mailboxes.block(home)
        return home

    def add_keys(self):
        """Fill in all keys of a relay that is in the middle of a rotation of its DKIM keys."""
        state = {"selectors": ["r1", "e1"], "next": ["r2"], "retired": []}
        for name, content in zip(("r1", "e1", "r2"), SECRETS[:3], strict=True):
            self.write(f"etc/chatmail/dkim/{name}.pem", content)
        self.write(machine.SIGNING, json.dumps(state))
        self.write(machine.TURN_SECRET, SECRETS[3])
        self.write(f"{ACCOUNT}/0f0f/private_key.json", SECRETS[4])
        self.write(f"{ACCOUNT}/0f0f/regr.json", "{}")
        self.write(f"{ACCOUNT}/0f0f/meta.json", "{}")
        certificate, key = pair(self.settings["mail_domain"])
        live = self.root / "etc/letsencrypt/live/chatmail"
        live.mkdir(parents=True)
        for name, content in zip(machine.PEM_NAMES, (certificate,) * 3 + (key,), strict=True):
            self.write(f"{machine.VERSIONS}/{name}1.pem", "old")
            self.write(f"{machine.VERSIONS}/{name}2.pem", content)
            (live / f"{name}.pem").symlink_to(f"../../archive/chatmail/{name}2.pem")
        self.write(machine.RENEWAL, f"account = 0f0f\nrenew_hook = {certbot.DEPLOY_HOOK}\n")
        installing.install(live / "fullchain.pem", live / "privkey.pem")

    def add_invitation(self):
        self.write(self.invitations / INVITED, json.dumps(INVITATION))

    def files(self):
        """Return {name: content} of all files of the machine but its archives."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if path.is_symlink():
                found[name] = f"-> {os.readlink(path)}"
            elif path.is_file() and not name.startswith(("archives/", "run/")):
                found[name] = path.read_bytes()
        return found


@functools.cache
def pair(domain):
    """Return a certificate and its key in PEM form."""
    command = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "90"]
    command += ["-subj", f"/CN={domain}", "-keyout", "-", "-out", "-"]
    pem = subprocess.run(command, check=True, capture_output=True).stdout
    head, middle, tail = pem.partition(b"-----BEGIN CERTIFICATE-----")
    return middle + tail, head


def seal(path, recipient, members):
    """Encrypt a tar archive with these members: (name, content) or a TarInfo."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for each in members:
            if isinstance(each, tarfile.TarInfo):
                tar.addfile(each)
                continue
            member = tarfile.TarInfo(each[0])
            member.size = len(each[1])
            tar.addfile(member, io.BytesIO(each[1]))
    seal_bytes(path, recipient, buffer.getvalue())


def seal_bytes(path, recipient, content):
    """Encrypt any bytes as `create` encrypts its tar archive."""
    command = ["age", "--encrypt", "--recipient", recipient, "--output", str(path)]
    subprocess.run(command, input=content, check=True)


def unseal(path, identity):
    """Return {name: content} of an archive, by age and tar alone."""
    done = subprocess.run(
        ["age", "--decrypt", "--identity", str(identity), str(path)],
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar}


def home_files(home: Path):
    """Return {name: content} of an address's directory, without its password's time."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file()
    }
