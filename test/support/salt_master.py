"""A Salt master for the minion of a relay, and salt-ssh, which needs no minion.

Both programs are from the environment of the tests. They have the formula of this checkout and the
pillar of the relay.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from support import documents

REPOSITORY = Path(__file__).resolve().parents[2]


def configure(directory, pillar, **options):
    """Write the configuration of a master below a directory. Return its directory.

    pillar: {name: text} of the pillar's files. options: further options of the master.
    """
    configuration, roots, pillars = (directory / name for name in ("etc", "roots", "pillar"))
    for each in (configuration, roots, pillars):
        each.mkdir(parents=True, exist_ok=True)
    # The checkout itself as a root would make Salt walk through .venv.
    for folder in ("chatmail", "_beacons", "_modules", "_states", "_runners", "_utils", "_output"):
        (roots / folder).symlink_to(REPOSITORY / folder)
    for name, text in pillar.items():
        (pillars / f"{name}.sls").write_text(text)
    given = {
        "root_dir": str(directory),
        "fileserver_followsymlinks": True,
        "file_roots": {"base": [str(roots)]},
        "pillar_roots": {"base": [str(pillars)]},
        "log_level": "error",
        **options,
    }
    (configuration / "master").write_text(json.dumps(given))
    return configuration


def free_ports(address):
    """Return two ports of an address of this machine that no program uses."""
    with socket.create_server((address, 0)) as one, socket.create_server((address, 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def pillar_files(relay):
    """Return the pillar that a box of the lab has, as `configure` takes it."""
    names = ("top", "lab", "extra", "relay")
    return {name: relay.run(f"cat /srv/pillar/{name}.sls").stdout for name in names}


def run(program, configuration, *arguments, timeout=240):
    """Run a program of Salt with a configuration. Return its CompletedProcess."""
    command = [Path(sys.executable).with_name(program), f"--config-dir={configuration}"]
    return subprocess.run(
        [*command, "--out=json", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "HOME": str(configuration.parent)},
    )


class SaltSsh:
    """salt-ssh with one machine, `relay`, on which it logs in with a key."""

    def __init__(self, directory, pillar, address, key):
        # A new box may have the address of an earlier one, but it has another host key.
        known = directory / "known_hosts"
        self.configuration = configure(directory, pillar, known_hosts_file=str(known))
        # Without this file, salt-ssh uses the file of the user, which may know an earlier box.
        known.touch()
        machine = {"host": address, "user": "root", "priv": str(key)}
        (self.configuration / "roster").write_text(json.dumps({"relay": machine}))

    def run(self, *arguments):
        """Call a function on the machine. Return the CompletedProcess."""
        # The machine is new, so its host key is unknown.
        return run("salt-ssh", self.configuration, "--ignore-host-keys", "relay", *arguments)

    def call(self, *arguments):
        """Call a function on the machine. Return its result."""
        return result(self.run(*arguments))


class Master:
    """A master that accepts every minion and key. `with Master(...) as master` ends it.

    port: where minions ask it. Tests of two releases run at once, each with a master.
    options: further options of the master.
    """

    def __init__(self, directory, pillar, address, **options):
        self.port, publish_port = free_ports(address)
        self.configuration = configure(
            directory,
            pillar,
            interface=address,
            ret_port=self.port,
            publish_port=publish_port,
            open_mode=True,
            worker_threads=2,
            timeout=60,
            **options,
        )

    def __enter__(self):
        command = [Path(sys.executable).with_name("salt-master")]
        with open(self.configuration.parent / "master.out", "w") as output:
            self.process = subprocess.Popen(
                [*command, f"--config-dir={self.configuration}"],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)

    def call(self, *arguments):
        """Call a function on the minion `relay`. Return its result."""
        return result(run("salt", self.configuration, "relay", *arguments))

    def await_minion(self, seconds=90):
        """Wait until the minion answers."""
        deadline = time.monotonic() + seconds
        while run("salt", self.configuration, "--timeout=5", "relay", "test.ping").returncode != 0:
            if time.monotonic() > deadline:
                output = (self.configuration.parent / "master.out").read_text()
                raise AssertionError(f"the minion does not answer within {seconds} s:\n{output}")


class Fleet(Master):
    """A master with several minions, for the runner chatmail_fleet.

    names: the ids of the minions.
    """

    def __init__(self, directory, pillar, address, names, **options):
        super().__init__(directory, pillar, address, **options)
        self.names = names
        path = self.configuration / "master"
        # Minions of a busy machine take their time, and a test waits for one that is off.
        given = {**json.loads(path.read_text()), "timeout": 15, "gather_job_timeout": 15}
        given["id"] = "master"
        # A test may put the example of the document in place of this one, which does nothing.
        reactor = self.configuration.parent / "reactor.sls"
        reactor.write_text("{}")
        given["reactor"] = [{"salt/beacon/*/chatmail_relay/": [str(reactor)]}]
        path.write_text(json.dumps({**given, "log_level_logfile": "debug"}))

    def finger(self):
        """Return the fingerprint of the master's key, by the command of docs/fleet.md."""
        key = self.configuration.parent / "etc/salt/pki/master/master.pub"
        deadline = time.monotonic() + 60
        while not (key.exists() and "END" in key.read_text()):
            assert time.monotonic() < deadline, "the master has no key"
            time.sleep(0.2)
        command = ["bash", "-c", f'{documents.finger()}\nfinger "$0"', key]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def run(self, function, *arguments):
        """Call a runner. Return the CompletedProcess."""
        return run("salt-run", self.configuration, function, *arguments)

    def orchestrate(self, name, *arguments, pillar=None):
        """Run an orchestration of `chatmail/fleet/`. Return its exit code and its states.

        pillar: keys in place of those that the master's own pillar has.
        """
        given = [f"pillar={json.dumps(pillar)}"] if pillar else []
        called = ("state.orchestrate", f"chatmail.fleet.{name}", *given, *arguments)
        done = run("salt-run", self.configuration, *called, timeout=3600)
        try:
            [states] = json.loads(done.stdout)["data"].values()
            return done.returncode, {state["__id__"]: state for state in states.values()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise AssertionError(f"no states:\n{done.stdout}{done.stderr}") from None

    def restart(self):
        """End the master, and start it again."""
        self.__exit__()
        self.__enter__()

    def salt(self, *arguments):
        """Call an execution function on minions. Return the CompletedProcess."""
        return run("salt", self.configuration, "--static", *arguments)

    def ask(self, function, *arguments):
        """Call a function of chatmail_fleet. Return the exit code, and the entries by relay."""
        done = self.run(f"chatmail_fleet.{function}", *arguments)
        try:
            return done.returncode, json.loads(done.stdout)["data"]
        except (ValueError, KeyError, TypeError):
            raise AssertionError(f"no answer:\n{done.stdout}{done.stderr}") from None

    def await_minions(self, seconds=120):
        """Wait until all minions answer, and until the master has seen their pillars."""
        deadline = time.monotonic() + seconds
        waiting = set(self.names)
        while waiting:
            done = self.salt("-L", ",".join(waiting), "test.ping")
            answers = json.loads(done.stdout) if done.stdout.startswith("{") else {}
            waiting -= {name for name, answer in answers.items() if answer is True}
            if time.monotonic() > deadline:
                output = (self.configuration.parent / "master.out").read_text()
                raise AssertionError(f"{waiting} do not answer within {seconds} s:\n{output}")


def result(done):
    """Return the result of a function from the output of Salt."""
    try:
        return json.loads(done.stdout)["relay"]
    except (ValueError, KeyError, TypeError):
        raise AssertionError(f"no answer:\n{done.stdout}{done.stderr}") from None
