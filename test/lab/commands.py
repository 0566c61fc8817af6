"""The verbs of the lab's command line."""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path

import aptproxy
import authority
import boxes
import cgroups
import converging
import host
import images
import nameserver
import network
import vm
import vmimages
from host import LabError, lock, say


def check(_arguments):
    """Print whether this machine can run the lab, and the reasons if it cannot."""
    found = host.obstacles()
    for obstacle in found:
        say(f"lab: {obstacle}")
    if not found:
        say("lab: this machine can run the lab")
    return 1 if found else 0


def setup(_arguments=None):
    """Install missing packages on this host, and start the lab's network, DNS, ACME and proxy."""
    found = host.obstacles()
    if found:
        raise LabError("; ".join(found))
    for directory in (host.CACHE, host.STATE):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    with lock("lab"):
        refuse_second_lab()
        host.install_packages(host.missing_packages())
        host.allow_inotify()
        network.ensure()
        nameserver.ensure()
        authority.ensure()
        aptproxy.ensure()


def refuse_second_lab():
    """Note that the lab of this directory runs. Raises LabError when another lab runs."""
    running = host.running_directory()
    if running not in (None, host.DIRECTORY):
        where = running or "its usual directories"
        raise LabError(f"another lab, in {where}, runs on this machine; `lab down --all` ends it")
    host.RUNNING.write_text(host.DIRECTORY)


def build_images(arguments):
    """Build missing images of the releases in parallel. By default build those of all releases."""
    setup()
    images.ensure_all(arguments.os or sorted(images.SUITES), aptproxy.url(), arguments.packages)


def install(arguments):
    """Install Debian packages on this host, and start none of their services."""
    with lock("lab"):
        host.install_packages(arguments.package)


def up(arguments):
    """Boot a box and converge it."""
    name = arguments.name
    pillar = read(arguments.pillar) if arguments.pillar else None
    if not boxes.NAME.fullmatch(name):
        raise LabError(f"{name} cannot be the name of a box: use a-z, 0-9 and -, a letter first")
    setup()
    layers = layers_for(arguments)
    domain = (arguments.domain or f"_{name}.example.org").rstrip(".").lower()
    started = time.monotonic()
    box = boxes.create(name, arguments.os, domain, layers, bare=arguments.bare, pillar=pillar)
    boxes.await_boot(box)
    say(f"{box.name}: {box.release} at {box.ip}, up in {time.monotonic() - started:.1f} s")
    if arguments.bare or arguments.no_converge:
        return 0
    return converging.converge(box)


def layers_for(arguments):
    """Return the layers of the image for the arguments of `up`. Missing layers are built."""
    with_salt = not arguments.bare
    if arguments.vm and arguments.packages:
        raise LabError("--packages is for a container; a virtual machine installs its packages")
    if arguments.vm:
        architecture = arguments.arch or "amd64"
        vm.install(architecture)
        return vmimages.ensure(arguments.os, architecture, aptproxy.url(), with_salt)
    if arguments.arch:
        raise LabError("a container has the architecture of this machine; --arch is for --vm")
    return images.ensure(arguments.os, aptproxy.url(), with_salt, arguments.packages)


def read(path):
    """Return the text of a file that the user named."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"cannot read {path}: {error}") from None


def converge(arguments):
    """Apply the formula to a box."""
    return converging.converge(boxes.load(arguments.name), test=arguments.test)


def run(arguments):
    """Run a command in a box, with the input, output and exit code of this one."""
    return boxes.become(boxes.load(arguments.name), arguments.command or ["bash", "--login"])


def client(arguments):
    """Run a command of this host in the network of the boxes, with their DNS."""
    if not network.exists(network.CLIENT):
        raise LabError("the lab does not run; `lab up NAME` or `lab setup` starts it")
    script = f'mount --bind {network.RESOLV_CONF} /etc/resolv.conf && exec "$@"'
    command = ["nsenter", f"--net={network.namespace(network.CLIENT)}"]
    command += ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh"]
    command += arguments.command or [os.environ.get("SHELL", "/bin/sh")]
    return os.execvp(command[0], command)


def ip(arguments):
    """Print a box's IPv4 address."""
    print(boxes.load(arguments.name).ip)


def show(_arguments):
    """Print a line for each box: name, release, address, domain, state."""
    for box in boxes.read_all():
        state = "running" if boxes.is_running(box.name) else "dead"
        print(f"{box.name:16} {box.release:10} {box.ip:15} {state:8} {box.domain}")


def reboot(arguments):
    """Reboot a box and wait until it has booted."""
    boxes.reboot(boxes.load(arguments.name))


def down(arguments):
    """End a box and remove it. --all ends all boxes and the lab's network, DNS, ACME and proxy."""
    if arguments.all == bool(arguments.name):
        raise LabError("say which box to end, or --all")
    running = host.running_directory()
    if arguments.all and running not in (None, host.DIRECTORY):
        environment = {**os.environ, "CHATMAIL_LAB_DIRECTORY": running}
        os.execve(sys.argv[0], sys.argv, environment)
    if not arguments.all and arguments.name not in boxes.names():
        raise LabError(f"there is no box {arguments.name}; `lab list` shows the boxes")
    for name in boxes.names() if arguments.all else [arguments.name]:
        with lock("boxes"):
            boxes.remove(name)
    if arguments.all:
        with lock("lab"):
            aptproxy.stop()
            authority.stop()
            nameserver.stop()
            network.remove()
            cgroups.clear("")  # This also ends boxes that have lost their directory.
            host.RUNNING.unlink(missing_ok=True)


def dns_set(arguments):
    """Set the DNS record of a name and a type. It replaces all others of this name and type."""
    nameserver.set_record(arguments.name, arguments.type.upper(), arguments.value)


def dns_del(arguments):
    """Remove the DNS records of a name: those of one type, or all."""
    nameserver.delete(arguments.name, arguments.type.upper() if arguments.type else None)


def parser():
    """Return the parser of the command line. The docstring of a verb is its help."""
    top = argparse.ArgumentParser(prog="lab", description="A mail network of throwaway machines.")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name, function, *, to=verbs):
        added = to.add_parser(name, help=function.__doc__, description=function.__doc__)
        added.set_defaults(function=function)
        return added

    verb("check", check)
    verb("setup", setup)
    verb("install", install).add_argument("package", nargs="+")
    building = verb("images", build_images)
    building.add_argument("--os", action="append", choices=images.SUITES)
    building.add_argument("--packages", action="store_true", help="with the packages of a relay")
    starting = verb("up", up)
    starting.add_argument("name")
    starting.add_argument("--os", choices=sorted(images.SUITES), default="debian-13")
    starting.add_argument("--domain", help="mail domain; default _NAME.example.org; ip: its IP")
    starting.add_argument("--pillar", type=Path, metavar="FILE", help="further pillar, an SLS file")
    starting.add_argument("--no-converge", action="store_true", help="boot only")
    image = starting.add_mutually_exclusive_group()
    image.add_argument("--bare", action="store_true", help="boot only, without Salt and pillar")
    image.add_argument("--packages", action="store_true", help="with the packages of a relay")
    starting.add_argument("--vm", action="store_true", help="a virtual machine, not a container")
    starting.add_argument("--arch", choices=vmimages.ARCHITECTURES, help="for --vm; default amd64")
    applying = verb("converge", converge)
    applying.add_argument("name")
    applying.add_argument("--test", action="store_true", help="change nothing, show the changes")
    for name, function in (("run", run), ("client", client)):
        running = verb(name, function)
        if name == "run":
            running.add_argument("name")
        running.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    verb("ip", ip).add_argument("name")
    verb("list", show)
    verb("reboot", reboot).add_argument("name")
    ending = verb("down", down)
    ending.add_argument("name", nargs="?")
    ending.add_argument("--all", action="store_true")
    dns = verbs.add_parser("dns", help="Change the lab's DNS.").add_subparsers(required=True)
    setting, deleting = verb("set", dns_set, to=dns), verb("del", dns_del, to=dns)
    for command in (setting, deleting):
        command.add_argument("name")
    setting.add_argument("type")
    setting.add_argument("value")
    deleting.add_argument("type", nargs="?")
    return top


def main():
    """Run the verb; return the exit code."""
    if sys.argv[1:2] == ["_keep"]:
        return boxes.keep(sys.argv[2])
    arguments = parser().parse_args()
    if getattr(arguments, "command", None) and arguments.command[0] == "--":
        del arguments.command[0]
    try:
        if os.geteuid() != 0 and arguments.function is not check:
            raise LabError(f"the lab needs root: sudo {shlex.join(sys.argv)}")
        if os.geteuid() == 0 and network.is_client():
            network.leave_client(sys.argv)
        return arguments.function(arguments) or 0
    except LabError as error:
        say(f"lab: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
