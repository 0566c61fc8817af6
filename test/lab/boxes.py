"""A box: one machine with real systemd. Its file system is an overlay over the shared images.

A box is a system container (container.py) or a virtual machine (vm.py). Its files are in its
directory under /var/lib/chatmail-lab. A keeper process holds its mounts in a mount namespace of its
own, and boots the box again when it reboots. When the keeper dies for any reason, the machine and
its mounts end too. The next `up` or `down` with this name removes the rest from the disk and from
the cgroup tree.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import authority
import cgroups
import container
import images
import nameserver
import network
import vm
from host import (
    CHECKOUT,
    STATE,
    LabError,
    available_memory,
    await_condition,
    daemon_pid,
    lock,
    run,
    start_daemon,
    stop_daemon,
)

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
ENOUGH_MEMORY = 8 << 30  # bytes that must be available for a box to live in memory
REBOOT = 133  # exit code of systemd-nspawn --keep-unit when the container reboots
FORMULA = "/srv/formulas/chatmail"
FORMULA_FOLDERS = ("chatmail", "_modules", "_states", "_runners")

NETWORK_UNIT = """\
[Match]
Name=host0

[Network]
Address={ipv4}/24
Address={ipv6}/64
IPv6AcceptRA=no
IPv6DuplicateAddressDetection=0
"""

# The links that `systemctl enable systemd-networkd` makes.
NETWORK_SERVICES = {
    "multi-user.target.wants": "systemd-networkd.service",
    "network-online.target.wants": "systemd-networkd-wait-online.service",
}

MINION = f"""\
file_client: local
file_roots:
  base: [{FORMULA}]
pillar_roots:
  base: [/srv/pillar]
"""

# Salt merges these files in this order. The box's own domain comes last and wins.
PILLAR_TOP = """\
base:
  '*': [lab, extra, relay]
"""


def lab_pillar():
    """Return the pillar of all relays in the lab, in JSON, which is YAML too."""
    return json.dumps(
        {
            "chatmail": {
                # A box shows the load of the whole host, with all other boxes and tests.
                "max_load_1m": 1000,
                # All tests use one network.
                "max_registrations_per_hour": 100_000,
                # The program of the iroh relay is on the Internet. Its tests bring their own.
                "iroh_relay": "",
                "acme_directory": authority.URL,
                # The boxes have documentation addresses, which are not public.
                "federation": {"private_networks": [str(network.NETWORK), str(network.NETWORK6)]},
                "resolver": {
                    "forwarders": [network.address(network.NAMESERVER)],
                    "trust_anchors": nameserver.trust_anchors(),
                },
            }
        }
    )


@dataclass
class Box:
    """The description of a box, which is in box.json before the box boots."""

    name: str
    release: str
    domain: str
    number: int  # the last byte of its addresses
    layers: list[str]
    bare: bool = False

    @property
    def machine(self):
        """The module that boots and enters the box. A virtual machine has a kernel in its image."""
        return vm if vm.kernels(self) else container

    @property
    def directory(self):
        return STATE / self.name

    @property
    def disk(self):
        """The directory of the box's own files, beside its image."""
        return self.directory / "disk"

    @property
    def keeper(self):
        return self.directory / "keeper.pid"

    @property
    def console(self):
        return self.directory / "console.log"

    @property
    def ip(self):
        return network.address(self.number)


def load(name):
    """Return the box of that name. Raises LabError without such a box."""
    try:
        return Box(**json.loads((STATE / name / "box.json").read_text()))
    except (FileNotFoundError, NotADirectoryError):
        raise LabError(f"there is no box {name}; `lab list` shows the boxes") from None
    except (ValueError, TypeError) as error:
        raise LabError(f"box {name} is damaged ({error}); `lab down {name}` clears it") from None


def names():
    """Return the names of all boxes, also of boxes that a crash left behind."""
    return sorted(path.name for path in STATE.glob("*") if NAME.fullmatch(path.name))


def read_all():
    """Yield all boxes with a readable box.json."""
    for name in names():
        with contextlib.suppress(LabError):
            yield load(name)


def is_running(name):
    """Return whether the box has a keeper."""
    return daemon_pid(STATE / name / "keeper.pid") is not None


def create(name, release, domain, layers, *, bare=False, pillar=None):
    """Reserve a name and an address, write the files of the box, and start its keeper.

    domain: a mail domain, or "ip", which means the address that the box gets. An IPv4 address of
        the lab becomes the address of the box.
    The rest of a crashed box of this name is removed first. Returns the box, which boots now.
    """
    with lock("boxes"):
        if is_running(name):
            raise LabError(f"box {name} runs already; `lab converge {name}` or `lab down {name}`")
        remove(name)
        number = free_number(domain)
        domain = network.address(number) if domain == "ip" else domain
        box = Box(name, release, domain, number, [str(layer) for layer in layers], bare)
        for part in ("disk/upper", "disk/work", "root"):
            (box.directory / part).mkdir(parents=True)
        (box.directory / "box.json").write_text(json.dumps(asdict(box)))
        furnish(box, pillar)
        start_keeper(box)
    if not shared_by_others(box):
        nameserver.add_box(domain, number)
    return box


def shared_by_others(box):
    """Return whether another box has the same domain. The DNS then has the records of that box."""
    return any(other.domain == box.domain for other in read_all() if other.name != box.name)


def free_number(domain):
    """Return the number of a new box: that of the address in its domain, or the first free one."""
    taken = {box.number: box.name for box in read_all()}
    if nameserver.is_literal(domain):
        number = int(domain.rpartition(".")[2])
        if number not in network.BOX_NUMBERS or network.address(number) != domain:
            first, last = network.BOX_NUMBERS[0], network.BOX_NUMBERS[-1]
            raise LabError(
                f"{domain} is not an address for a box; the lab has "
                f"{network.address(first)} to {network.address(last)}"
            )
        if number in taken:
            raise LabError(f"{domain} is the address of box {taken[number]}")
        return number
    for number in network.BOX_NUMBERS:
        if number not in taken:
            return number
    raise LabError(f"all {len(network.BOX_NUMBERS)} addresses of the lab are taken; see `lab list`")


def furnish(box, pillar):
    """Write the files of this box: name, addresses, DNS, Salt and pillar."""
    box.machine.furnish(box)
    ipv6 = network.address6(box.number)
    files = {
        "etc/hostname": f"{box.name}\n",
        "etc/hosts": f"127.0.0.1 localhost\n::1 localhost\n{box.ip} {box.name}\n",
        # With this file, systemd does not treat the boot as the first one of the machine.
        "etc/machine-id": f"{uuid.uuid4().hex}\n",
        "etc/resolv.conf": network.resolv_conf(),
        "etc/systemd/network/10-lab.network": NETWORK_UNIT.format(ipv4=box.ip, ipv6=ipv6),
        **authority.trust(Path(box.layers[-1], "etc/ssl/certs/ca-certificates.crt").read_text()),
    }
    if not box.bare:
        files |= {
            "etc/salt/minion.d/chatmail.conf": MINION,
            "srv/pillar/top.sls": PILLAR_TOP,
            "srv/pillar/relay.sls": json.dumps({"chatmail": {"mail_domain": box.domain}}) + "\n",
            "srv/pillar/lab.sls": lab_pillar(),
            "srv/pillar/extra.sls": pillar or "{}\n",
        }
    for name, text in files.items():
        path = box.disk / "upper" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for target, service in NETWORK_SERVICES.items():
        wants = box.disk / "upper/etc/systemd/system" / target
        wants.mkdir(parents=True, exist_ok=True)
        (wants / service).symlink_to(f"/lib/systemd/system/{service}")


def binds(box):
    """Yield the directories of this host that a box sees, read-only: (path here, path there).

    A bare box sees the checkout, as after `git clone`, and wheels for installing Salt. Other boxes
    see the folders of the formula, as a Salt minion does.
    """
    if box.bare:
        yield CHECKOUT, "/srv/checkout"
        yield images.wheels_path(box.release), "/srv/wheels"
        return
    for folder in FORMULA_FOLDERS:
        if (CHECKOUT / folder).is_dir():
            yield CHECKOUT / folder, f"{FORMULA}/{folder}"


def start_keeper(box):
    """Start the process that boots the box."""
    lab = Path(__file__).with_name("lab")
    start_daemon(
        box.keeper,
        ["unshare", "--mount", "--propagation", "slave", lab, "_keep", box.name],
        box.directory / "keeper.log",
    )


def await_boot(box, but_not=None):
    """Wait until the box has booted.

    but_not: what `running` returned before a reboot, so that the old boot does not count.
    """

    def booted():
        if not is_running(box.name):
            raise LabError(f"box {box.name} did not boot: {last_words(box)}")
        if box.machine.running(box) in (None, but_not):
            return False
        state = inside(box, "systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded") and has_addresses(box)

    try:
        await_condition(booted, box.machine.BOOT_TIME, f"the boot of {box.name}")
    except LabError as error:
        raise LabError(f"{error}; {last_words(box)}") from None
    bring(box)


def bring(box):
    """Show the box the present state of this host's directories."""
    box.machine.bring(box, binds(box))


def has_addresses(box):
    """Return whether both addresses of the box can be used."""
    listing = ["ip", "-o", "address", "show", "dev", "host0", "scope", "global", "-tentative"]
    shown = inside(box, *listing, check=False).stdout
    return f" {box.ip}/" in shown and f" {network.address6(box.number)}/" in shown


def last_words(box):
    """Return the last lines of the keeper and of the console."""
    text = ""
    for path in (box.directory / "keeper.log", box.console):
        if path.exists():
            text += path.read_text(errors="replace")[-1000:]
    return text.strip() or "it printed nothing"


def keep(name):
    """Run as the keeper of a box: mount its file system, boot it, and boot it after a reboot."""
    box = load(name)
    if available_memory() > ENOUGH_MEMORY:
        move_into_memory(box.disk)
    lower = ":".join(box.layers)
    options = f"lowerdir={lower},upperdir={box.disk}/upper,workdir={box.disk}/work"
    run("mount", "-t", "overlay", "overlay", box.directory / "root", "-o", options)
    cgroups.join(f"{name}/keeper")
    box.machine.prepare(box)
    boot = 0
    while True:
        boot += 1
        with open(box.console, "ab") as console:
            code = subprocess.run(
                box.machine.command(box, binds(box)),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                check=False,
                # nspawn makes the groups `payload` and `supervisor` in its own group. In a shared
                # group, two boxes would end each other's services.
                preexec_fn=lambda: cgroups.join(f"{name}/boot{boot}"),  # noqa: B023
            ).returncode
        if code != REBOOT:
            return code


def move_into_memory(disk):
    """Move a box's disk into memory, where it ends with the keeper.

    A relay has about 600 MB in thousands of files. With a disk that other boxes use too, a converge
    waits for the disk for a third of its time, and the removal takes ten seconds more.
    """
    laid_out = disk.rename(disk.with_name("laid-out"))
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", disk)
    run("cp", "--archive", laid_out / "upper", laid_out / "work", disk)


def inside(box, *argv, **kwargs):
    """Run a command in the box; return its CompletedProcess, with the output as text."""
    command = box.machine.enter_command(box, argv)
    return run(*command, preexec_fn=lambda: box.machine.enter_cgroup(box), **kwargs)


def become(box, argv):
    """Replace this process by a command in the box, with the same input and output."""
    command = box.machine.enter_command(box, argv)
    box.machine.enter_cgroup(box)
    os.execvp(command[0], command)


def reboot(box):
    """Reboot the box from inside, and wait until it has booted."""
    before = box.machine.running(box)
    inside(box, "systemctl", "reboot", check=False)
    await_boot(box, but_not=before)


def remove(name):
    """End a box in any state, and remove everything of it."""
    directory = STATE / name
    with contextlib.suppress(LabError):
        box = load(name)
        nameserver.delete_box(box.number, None if shared_by_others(box) else box.domain)
    stop_daemon(directory / "keeper.pid")
    cgroups.clear(name)
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        raise LabError(f"{directory} cannot be removed; is something mounted in it?")
