"""A box as a virtual machine: the same image, pillar and place in the lab, with its own kernel.

A virtual machine has its own kernel with sysctls and AppArmor, and a real boot. A container uses
the kernel of this host. QEMU emulates the processor, so it needs no KVM. ARCH=arm64 works as well
as amd64. Both are about ten times slower than this host. The machine has a tap device on the lab's
bridge, and the address and DNS records of a box. `lab run` uses ssh with a key of this box. Each
`lab up` writes the disk from the images and the box's files. The disk is removed with the box.

`make vm OS=debian-12 ARCH=arm64` checks a relay on such a machine (vmcheck.py). container.py has
the same functions, and boxes.py calls those of one of the two.
"""

import shlex
import socket
import sys
import tarfile
import tempfile
from pathlib import Path

import network
from host import CLEAN_ENVIRONMENT, LabError, daemon_pid, install_packages, lock, run

BOOT_TIME = 1800  # seconds; on an idle machine a boot takes 20, and 60 for arm64
DISK_SIZE = "8G"  # the file is sparse

# The packages that this host needs for virtual machines only.
PACKAGES = {"amd64": "qemu-system-x86", "arm64": "qemu-system-arm"}
EMULATORS = {
    "amd64": ["qemu-system-x86_64", "-machine", "q35", "-cpu", "max", "-m", "2048"],
    # A Raspberry Pi 4 has this processor. The smallest model has 1 GB.
    "arm64": ["qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a72", "-m", "1024"],
}
CONSOLES = {"amd64": "ttyS0", "arm64": "ttyAMA0"}

# The network card has the same name as in a container.
LINK = """\
[Match]
Driver=virtio_net

[Link]
Name=host0
"""

# On a busy host, services that started at the same time took longer than systemd's limit of 90 s.
# systemd ended and started them again, for ever.
PATIENCE = """\
[Manager]
DefaultTimeoutStartSec=15min
DefaultTimeoutStopSec=5min
"""

SSH = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]
# An emulated machine under load answers slowly, and one that reboots may not answer at all.
SSH += ["-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=20", "-o", "ServerAliveCountMax=6"]


def install(architecture):
    """Install what this host needs to run virtual machines of an architecture."""
    if not Path("/dev/net/tun").exists():
        raise LabError("a virtual machine needs /dev/net/tun, but this machine has no such device")
    with lock("lab"):
        install_packages([PACKAGES[architecture], "openssh-client", "e2fsprogs"])


def furnish(box):
    """Make the keys of the box and of its one user, and name its network card."""
    for kind in ("user", "host"):
        key = box.directory / f"{kind}_key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", box.name, "-f", key)
    host_key = box.directory / "host_key"
    authorized = (box.directory / "user_key.pub").read_text()
    files = {
        "etc/ssh/ssh_host_ed25519_key": (host_key.read_text(), 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": (host_key.with_suffix(".pub").read_text(), 0o644),
        "root/.ssh/authorized_keys": (authorized, 0o600),
        "etc/systemd/network/10-lab.link": (LINK, 0o644),
        "etc/systemd/system.conf.d/10-lab.conf": (PATIENCE, 0o644),
    }
    for name, (text, mode) in files.items():
        path = box.disk / "upper" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode)
        path.write_text(text)
    known = f"{box.ip} {host_key.with_suffix('.pub').read_text()}"
    (box.directory / "known_hosts").write_text(known)
    # QEMU calls this script with the name of the tap device, which exists as long as QEMU runs.
    plug = box.directory / "plug"
    plug.write_text('#!/bin/sh\nexec ip link set "$1" master br0 up\n')
    plug.chmod(0o755)


def prepare(box):
    """Write the disk from the overlay that the keeper has mounted."""
    run("mkfs.ext4", "-q", "-d", box.directory / "root", image(box), DISK_SIZE)


def image(box):
    """Return the file with the disk of the box."""
    return box.directory / "disk.img"


def kernels(box):
    """Return the kernels in the box's image: one, or none in the image of a container."""
    return list(Path(box.layers[0], "boot").glob("vmlinuz-*"))


def command(box, _binds):
    """Return the command line that boots the box. QEMU handles reboots, and ends with the box."""
    (kernel,) = kernels(box)
    initrd = kernel.with_name(kernel.name.replace("vmlinuz", "initrd.img", 1))
    architecture = kernel.name.rpartition("-")[2]  # vmlinuz-6.12.1+deb13-cloud-amd64
    emulator, *model = EMULATORS[architecture]
    boot = ["setpriv", "--pdeathsig", "KILL", "nsenter"]
    boot += [f"--net={network.namespace(network.LAB)}", emulator, *model]
    boot += ["-name", box.name, "-accel", "tcg,thread=multi", "-smp", "2"]
    boot += ["-nodefaults", "-display", "none", "-monitor", "none", "-serial", "stdio"]
    boot += ["-kernel", str(kernel), "-initrd", str(initrd)]
    boot += ["-append", f"root=/dev/vda rw console={CONSOLES[architecture]}"]
    # The box is thrown away, so its data need not be flushed to this host's disk.
    boot += ["-drive", f"file={image(box)},format=raw,if=virtio,cache=unsafe,discard=unmap"]
    boot += ["-netdev", f"tap,id=lab,script={box.directory}/plug,downscript=no"]
    boot += ["-device", f"virtio-net-pci,netdev=lab,mac=02:00:00:00:01:{box.number:02x}"]
    return [*boot, "-device", "virtio-rng-pci"]


def running(box):
    """Return the id of this boot of the box, None while the box does not answer."""
    try:
        socket.create_connection((box.ip, 22), timeout=5).close()
    except OSError:
        return None
    done = run(*ssh(box, ["cat", "/proc/sys/kernel/random/boot_id"]), check=False)
    return done.stdout.strip() or None


def ssh(box, argv):
    """Return the command line that runs `argv` in the box by ssh."""
    login = [*SSH, "-o", f"UserKnownHostsFile={box.directory}/known_hosts"]
    login += ["-i", str(box.directory / "user_key")]
    # With a terminal on this side, the command gets a terminal too.
    login += ["-t"] if sys.stdin.isatty() else []
    return [*login, f"root@{box.ip}", "--", shlex.join(str(arg) for arg in argv)]


def enter_command(box, argv):
    """Return the command line that runs `argv` in the box with a clean environment."""
    if daemon_pid(box.keeper) is None:
        raise LabError(f"box {box.name} is not running; `lab up {box.name}` boots it again")
    environment = [f"{key}={value}" for key, value in CLEAN_ENVIRONMENT.items()]
    return ssh(box, ["env", "--chdir=/root", "--ignore-environment", *environment, *argv])


def enter_cgroup(_box):
    """Do nothing: a virtual machine has its own control groups."""


def bring(box, binds):
    """Copy directories of this host into the box, and replace the old copies.

    binds: pairs of path here and path there, which a container would mount.
    This uses tar, because Debian's cloud kernels have no 9p, and virtiofs would need a daemon.
    """

    def without_owner(entry):
        entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, "root", "root"
        return None if entry.name.endswith(("/.venv", "/__pycache__")) else entry

    with tempfile.TemporaryFile() as parcel:
        targets = []
        with tarfile.open(fileobj=parcel, mode="w") as archive:
            for here, there in binds:
                archive.add(here, arcname=there, filter=without_owner)
                targets.append(there)
        parcel.seek(0)
        unpack = ["sh", "-c", 'rm -rf "$@" && tar --extract --directory=/', "sh", *targets]
        run(*enter_command(box, unpack), stdin=parcel)
