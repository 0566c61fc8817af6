"""A machine that the tests reach only over ssh (--hosts), for example a machine of kitchen.

The machine is converged already. No DNS needs to know its domain, because `resolve` makes this
process know it.
"""

import contextlib
import shlex
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from testinfra.backend.base import BaseBackend

# Commands there have no variables of this side's environment, as in a box of the lab.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}


class Ssh:
    """A connection to the machine that pytest-testinfra's options name; `name` is its host name."""

    def __init__(self, option):
        there = option.hosts.removeprefix("ssh://")
        spec = BaseBackend.parse_hostspec(there)
        if "://" in there or "," in there or spec.password:
            pytest.exit("--hosts takes one machine, and no password: ssh://[USER@]HOST[:PORT]", 4)
        self.name = spec.name
        # All commands use one connection. A login for each would take most of the time.
        self.directory = tempfile.TemporaryDirectory(prefix="ssh-")
        self.control = ["-o", f"ControlPath={self.directory.name}/%C"]
        self.command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", *self.control]
        self.command += ["-o", "ControlMaster=auto", "-o", "ControlPersist=60"]
        given = {
            "-F": option.ssh_config,
            "-i": option.ssh_identity_file,
            "-l": spec.user,
            "-p": spec.port,
        }
        for flag, value in given.items():
            self.command += [flag, value] if value else []
        self.command += [*shlex.split(option.ssh_extra_args or ""), self.name]
        self.sudo = ["sudo", "--non-interactive"] if option.sudo else []

    def run(self, line, sent=""):
        """Run a shell line as root with `sent` as its stdin; return its CompletedProcess.

        The line goes by stdin too. sudo writes its arguments to the journal, where tests look for
        the secrets in their lines.
        """
        program = ["env", "--ignore-environment", "--chdir=/root"]
        program += [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        program += ["sh", "-c", f'eval "$(head -c {len(line.encode())})"']
        return subprocess.run(
            [*self.command, shlex.join([*self.sudo, *program])],
            input=line + sent,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )

    def close(self):
        """End the connection."""
        end = [*self.command[:-1], "-O", "exit", self.name]
        subprocess.run(end, capture_output=True, check=False)
        self.directory.cleanup()


class SshBackend(BaseBackend):
    """The backend of pytest-testinfra for the machine. It uses the connection of the tests."""

    NAME = "elsewhere"

    def __init__(self, ssh):
        super().__init__(ssh.name)
        self.ssh = ssh

    def run(self, command, *args, **_kwargs):
        line = self.get_command(command, *args)
        done = self.ssh.run(line)
        output = done.stdout.encode(), done.stderr.encode()
        return self.result(done.returncode, line.encode(), *output)


def settings_text(ssh):
    """Return the text of the machine's /etc/chatmail/relay.json, which all tests need."""
    done = ssh.run("cat /etc/chatmail/relay.json")
    if done.returncode != 0:
        pytest.exit(f"{ssh.name} is no relay that can be reached: {done.stderr.strip()}", 1)
    return done.stdout


def reachable_address(ssh):
    """Return the machine's IPv4 address that answers from here.

    A machine may have several addresses. The first one of a vagrant machine leads to its host only.
    """
    shown = [each for each in ssh.run("hostname -I").stdout.split() if ":" not in each]
    for address in reversed(shown):
        with contextlib.suppress(OSError):
            socket.create_connection((address, 443), timeout=3).close()
            return address
    pytest.exit(f"{ssh.name} has the addresses {shown}, and none answers on port 443 from here", 1)
    return None


def is_known(domain, address):
    """Return whether this machine's DNS resolves a domain to an address."""
    try:
        return address in {found[4][0] for found in socket.getaddrinfo(domain, None)}
    except OSError:
        return False


def resolve(domain, address):
    """Resolve `domain` to `address` in this process, but not in the programs that it starts."""
    original = socket.getaddrinfo

    def getaddrinfo(name, *args, **kwargs):
        return original(address if name == domain else name, *args, **kwargs)

    socket.getaddrinfo = getaddrinfo


def clock_ahead(ssh):
    """Return the seconds by which the machine's clock is ahead of this one."""
    before = time.time()
    there = float(ssh.run("date +%s.%N").stdout)
    return there - (before + time.time()) / 2


def round_trip(address):
    """Return the seconds of a round trip to an address: the time of a TCP handshake."""
    before = time.monotonic()
    socket.create_connection((address, 443), timeout=10).close()
    return time.monotonic() - before


def writable(directory, otherwise):
    """Return `directory` if files can be made in it, else `otherwise`.

    `make lab` runs as root, so its files in the checkout belong to root.
    """
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    return Path(otherwise)
