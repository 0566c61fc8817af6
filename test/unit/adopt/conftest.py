"""A directory that is laid out as a machine of cmdeploy, and answers of its programs."""

import datetime
from types import SimpleNamespace

import pytest
from chatmaild.adopt import machine
from chatmaild.certificate import installing, self_signed
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

DOMAIN = "chat.example.org"
HASH = "{SHA512-CRYPT}$6$" + "s" * 16 + "$" + "h" * 86


@pytest.fixture(scope="session")
def key():
    """An RSA key in PEM form."""
    return rsa.generate_private_key(public_exponent=65537, key_size=1024).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.fixture
def old(tmp_path, monkeypatch, key):
    """A machine of cmdeploy. `write(path, content)` makes a file, `commands` are those that ran."""
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(installing, "TLS", tmp_path / "etc/chatmail/tls")
    monkeypatch.setattr(installing, "DAEMONS", ())
    made = SimpleNamespace(root=tmp_path, commands=[], broken=None)

    def write(path, content=""):
        target = tmp_path / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
        return target

    real = machine.run

    def run(*command, check=True):
        made.commands.append(" ".join(command))
        if made.broken and made.commands[-1].startswith(made.broken):
            raise machine.OperatorError("the test stops here")
        if command[0] == "cp":
            return real(*command, check=check)
        return ANSWERS.get(" ".join(command[:2]), "")

    monkeypatch.setattr(machine, "run", run)
    made.write = write
    write(machine.INI, f"[params]\nmail_domain = {DOMAIN}\n")
    write("/etc/os-release", 'ID=debian\nVERSION_ID="12"\n')
    write("/etc/passwd", "root:x:0:0::/:/bin/sh\niroh:x:999:999::/home/iroh:/bin/sh\n")
    write(machine.DKIM_KEY, key)
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=60)
    private = ec.generate_private_key(ec.SECP256R1())
    certificate = self_signed._issue_certificate(private, [DOMAIN], end)
    write(f"/var/lib/acme/live/{DOMAIN}/fullchain", certificate)
    write(f"/var/lib/acme/live/{DOMAIN}/privkey", self_signed._encode_key(private))
    mailbox = f"/home/vmail/mail/{DOMAIN}/abcdefghi@{DOMAIN}"
    write(f"{mailbox}/password", HASH)
    write(f"{mailbox}/enforceE2EEincoming")
    return made


ANSWERS = {
    "systemctl is-enabled": "enabled\n",
    "systemctl is-active": "active\n",
    "dpkg-query -W": "1:2.3.21+dfsg1-3",
    "apt-cache madison": "dovecot-core | 1:2.3.19.1+dfsg1-2.1+deb12u1 | deb bookworm/main\n",
}
