"""The machines under test: boxes of the lab, or a machine elsewhere."""

import contextlib
import json
import shlex
import subprocess
import time
from pathlib import Path

import pytest
import testinfra.host
from lab.host import STATE
from relay import elsewhere
from testinfra.backend.base import BaseBackend

LAB = Path(__file__).parents[1] / "lab" / "lab"
BOOT_AND_CONVERGE = 1500  # seconds; the first run builds images


def lab(*arguments, check=True, timeout=BOOT_AND_CONVERGE, **kwargs):
    """Run a verb of the lab. Return its CompletedProcess, with text."""
    kwargs.setdefault("capture_output", True)
    argv = [str(LAB), *map(str, arguments)]
    done = subprocess.run(argv, text=True, errors="replace", timeout=timeout, check=False, **kwargs)
    if check and done.returncode != 0:
        pytest.fail(
            f"`lab {shlex.join(map(str, arguments))}` failed with exit code {done.returncode}:\n"
            f"{done.stdout}{done.stderr}",
            pytrace=False,
        )
    return done


def box_record(name):
    """Return the lab's description of a box: name, release, domain and more."""
    path = STATE / name / "box.json"
    if not path.exists():
        raise pytest.UsageError(f"there is no box {name}; `lab list` shows all boxes")
    return json.loads(path.read_text())


class LabBackend(BaseBackend):
    """The backend of pytest-testinfra for a box. It uses `lab run`."""

    NAME = "lab"

    def run(self, command, *args, **_kwargs):
        command = self.get_command(command, *args)
        return self.run_local(f"{LAB} run %s -- sh -c %s", self.hostname, command)


class Relay:
    """A machine under test: a box of the lab, or with --hosts a machine elsewhere.

    `name`, `domain` (its mail domain), `ip` (its IPv4 address), `host` (pytest-testinfra's object);
    `in_lab`, and `in_dns`: whether the programs of this side find the domain by DNS.
    """

    def __init__(self, host, name, domain, ip):
        self.host, self.name, self.domain, self.ip = host, name, domain, ip
        self.ssh = None
        self.in_lab = self.in_dns = True

    def run(self, command, *, check=True, input=None):
        """Run a shell command (a string) or a program (a list) as root on the machine.

        input: text for stdin. Returns a CompletedProcess with text. An exit code other than 0 fails
        the test, unless `check=False`.
        """
        line = command if isinstance(command, str) else shlex.join(map(str, command))
        done = self.execute(line, input or "")
        if check and done.returncode != 0:
            output = f"{done.stdout}{done.stderr}"
            pytest.fail(f"on {self.name}: `{line}` gave {done.returncode}:\n{output}")
        return done

    def execute(self, line, sent):
        """Run a shell line with `sent` as its stdin, in the box or over ssh."""
        if self.in_lab:
            return lab("run", self.name, "--", "sh", "-c", line, check=False, input=sent)
        return self.ssh.run(line, sent)

    def salt(self, function, *arguments, check=True):
        """Call an execution function on the machine. Return its result."""
        call = ["salt-call", "--local", "--out=json", "--log-level=error", function, *arguments]
        done = self.run(call, check=check)
        try:
            return json.loads(done.stdout)["local"]
        except (ValueError, KeyError):
            pytest.fail(f"on {self.name}: {function} gave no JSON:\n{done.stdout}{done.stderr}")

    def client(self, *argv, check=True, **kwargs):
        """Run a program of this machine as a host beside the relay. Return the CompletedProcess."""
        kwargs.setdefault("timeout", 60)
        return subprocess.run(argv, capture_output=True, text=True, check=check, **kwargs)

    def dns_set(self, name, kind, value):
        """Make `value` the only record of this name and type in the lab's DNS."""
        self.needs_lab("its DNS")
        lab("dns", "set", name, kind, value)

    def dns_del(self, name, kind=None):
        """Remove a name from the lab's DNS, or only its records of one type."""
        self.needs_lab("its DNS")
        lab("dns", "del", name, *([kind] if kind else []))

    def reboot(self):
        """Reboot the machine and wait until it has booted."""
        self.needs_lab("its power switch")
        lab("reboot", self.name)

    def wait(self, seconds):
        """Wait between two checks of the machine."""
        time.sleep(seconds)

    def wait_until(self, condition, seconds=30):
        """Call `condition` until its result is true. Return the result. Fail after `seconds`."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"on {self.name}: not within {seconds} s: {condition}")
            time.sleep(0.1)
        return value

    def clock_ahead(self):
        """Return the seconds by which the machine's clock is ahead. A box has its host's clock."""
        return 0 if self.in_lab else elsewhere.clock_ahead(self.ssh)

    def round_trip(self):
        """Return the seconds of a round trip to the machine. It is 0 in the lab."""
        return 0 if self.in_lab else elsewhere.round_trip(self.ip)

    def needs_lab(self, what):
        """Skip the test if there is no lab."""
        if not self.in_lab:
            pytest.skip(f"needs the lab for {what}; {self.name} is a machine elsewhere")

    def needs_dns(self, who):
        """Skip the test if `who`, a program that asks the DNS itself, cannot find the domain."""
        if not self.in_dns:
            pytest.skip(f"{who} asks the DNS, and none here knows {self.domain}")


def lab_relay(name):
    """Return the Relay object of a box of the lab."""
    record = box_record(name)
    host = testinfra.host.Host(LabBackend(name))
    host.backend.set_host(host)
    return Relay(host, name, record["domain"], lab("ip", name).stdout.strip())


@contextlib.contextmanager
def elsewhere_relay(option):
    """Return the Relay object of the machine in --hosts, which must be converged already."""
    with contextlib.closing(elsewhere.Ssh(option)) as ssh:
        domain = json.loads(elsewhere.settings_text(ssh))["mail_domain"]
        backend = elsewhere.SshBackend(ssh)
        host = testinfra.host.Host(backend)
        backend.set_host(host)
        relay = Relay(host, ssh.name, domain, elsewhere.reachable_address(ssh))
        relay.ssh, relay.in_lab = ssh, False
        relay.in_dns = elsewhere.is_known(domain, relay.ip)
        elsewhere.resolve(domain, relay.ip)
        yield relay
