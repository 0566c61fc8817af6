"""The machine that the lab runs on: its rights, packages, processes and locks."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

# Where a lab keeps images and boxes; the variable gives it directories that are empty and its own.
DIRECTORY = os.environ.get("CHATMAIL_LAB_DIRECTORY", "")
CACHE = Path(DIRECTORY, "cache") if DIRECTORY else Path("/var/cache/chatmail-lab")
STATE = Path(DIRECTORY, "boxes") if DIRECTORY else Path("/var/lib/chatmail-lab")
RUN = Path("/run/chatmail-lab")  # of the one lab that runs on a machine at a time
RUNNING = RUN / "directory"  # the DIRECTORY of that one
CHECKOUT = Path(__file__).resolve().parents[2]

# command that must be there -> Debian package that brings it
PACKAGES = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "nginx": "nginx-light",
    "knotd": "knot",
    "knotc": "knot",
    "kdig": "knot-dnsutils",
    "pebble": "pebble",
    "openssl": "openssl",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}

# What runs inside a box sees nothing of the caller's environment.
CLEAN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
    "TERM": os.environ.get("TERM", "dumb"),
}
# What the lab itself runs on this host keeps to the same directories.
LAB_ENVIRONMENT = {**CLEAN_ENVIRONMENT, "CHATMAIL_LAB_DIRECTORY": DIRECTORY}


class LabError(Exception):
    """Something the user must know; its text is one clear sentence."""


def say(text):
    """Tell the user how far we are, on stderr, so that stdout stays a verb's result."""
    print(text, file=sys.stderr, flush=True)


def run(*argv, **kwargs):
    """Run a command of this host to its end.

    Returns the CompletedProcess, its output as text. Raises LabError with the command's last
    words when it fails, unless `check=False`.
    """
    check = kwargs.pop("check", True)
    kwargs.setdefault("stdin", subprocess.DEVNULL if "input" not in kwargs else None)
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    try:
        done = subprocess.run(
            [str(arg) for arg in argv], capture_output=True, text=True, check=False, **kwargs
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed here; `lab setup` installs it") from error
    if check and done.returncode != 0:
        last_words = (done.stderr.strip() or done.stdout.strip())[-2000:]
        command = " ".join(str(arg) for arg in argv)
        raise LabError(f"`{command}` failed with exit code {done.returncode}: {last_words}")
    return done


@contextlib.contextmanager
def lock(name):
    """Hold the machine-wide lock `name`; the kernel lets go of it when this process dies."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    with open(RUN / f"{name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def await_condition(condition, seconds, what):
    """Ask `condition` again and again until it is true; its value is returned.

    Raises LabError naming `what` when that takes longer than `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"{what} did not happen within {seconds} s")
        time.sleep(0.05)


def running_directory():
    """The DIRECTORY of the lab that runs on this machine; None when none does."""
    try:
        return RUNNING.read_text()
    except FileNotFoundError:
        return None


# Processes. A pid alone may have been given to a stranger since; pid and start time may not.


def start_time(pid):
    """When the process began, in clock ticks since boot; None when there is none or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def start_daemon(pid_file, argv, log):
    """Start a command that outlives us, and remember it in `pid_file`."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [str(arg) for arg in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=LAB_ENVIRONMENT,
            cwd="/",
        )
    record = {"pid": process.pid, "start": start_time(process.pid)}
    pid_file.write_text(json.dumps(record))
    return process


def daemon_pid(pid_file):
    """The pid of the process that `pid_file` remembers, None when it is gone."""
    try:
        record = json.loads(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    alive = record["start"] is not None and start_time(record["pid"]) == record["start"]
    return record["pid"] if alive else None


def stop_daemon(pid_file):
    """End the process that `pid_file` remembers, if it is still the same one."""
    pid = daemon_pid(pid_file)
    if pid:
        end_process(pid)
    pid_file.unlink(missing_ok=True)


def end_process(pid, patience=5):
    """Ask a process to end, and after `patience` seconds make it."""
    started = start_time(pid)
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
        with contextlib.suppress(LabError):
            await_condition(
                lambda: start_time(pid) != started, patience, f"the end of process {pid}"
            )
            return
    raise LabError(f"process {pid} survives SIGKILL; look at /proc/{pid}/stack")


def children(pid):
    """The pids of a process's children, whichever of its threads made them."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found


# What the machine can do.


def missing_packages():
    """The Debian packages that the lab needs and this machine has not."""
    return sorted({package for command, package in PACKAGES.items() if not shutil.which(command)})


def install_packages(packages):
    """Install Debian packages on this host that it lacks, and start none of their services."""
    packages = [package for package in packages if not is_installed(package)]
    if not packages:
        return
    if not shutil.which("apt-get"):
        raise LabError(f"{', '.join(packages)} must be installed, and apt-get is not here to do it")
    say(f"installing {' '.join(packages)}")
    with services_kept_down():
        environment = {**CLEAN_ENVIRONMENT, "DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-q", env=environment)
        run("apt-get", "install", "-qy", "--no-install-recommends", *packages, env=environment)


def is_installed(package):
    """True when dpkg has the package."""
    done = run("dpkg-query", "--show", "--showformat=${db:Status-Status}", package, check=False)
    return done.stdout == "installed"


@contextlib.contextmanager
def services_kept_down():
    """Keep package scripts from starting daemons: the lab runs its own nginx and knotd.

    policy-rc.d is the way that Debian's policy gives (man invoke-rc.d). One that is there already
    is the machine's own rule and stays.
    """
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    enabled_before = enabled_services()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            policy.unlink(missing_ok=True)
    for service in enabled_services() - enabled_before:
        run("systemctl", "disable", "--now", service, check=False)


def enabled_services():
    """The services that systemd starts on this machine by itself."""
    listing = ["systemctl", "list-unit-files", "--type=service", "--state=enabled", "--no-legend"]
    done = run(*listing, check=False) if shutil.which("systemctl") else None
    return {line.split()[0] for line in done.stdout.splitlines() if line} if done else set()


def obstacles():
    """Why this machine cannot run the lab: a list of sentences, empty when it can."""
    if os.geteuid() != 0:
        return ["the lab boots containers and needs root: run it with sudo"]
    found = []
    if not cgroup_roots():
        found.append(
            "no writable cgroup hierarchy for systemd (cgroup2 or name=systemd) is mounted, "
            "so systemd cannot run in a container here"
        )
    for what, trial in TRIALS.items():
        done = subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-ec", trial],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            found.append(f"this kernel, or the rights we have on it, gives no {what} ({reason})")
            break
    missing = missing_packages()
    if missing and not shutil.which("apt-get"):
        found.append(f"{', '.join(missing)} must be installed, and there is no apt-get to do it")
    return found


# Tried in namespaces of their own, so that nothing is left of them.
TRIALS = {
    "namespaces": "true",
    "mounts": f"mkdir -p {STATE} && mount -t tmpfs tmpfs {STATE}",
    # Where {STATE} itself lies on an overlay, as in Docker, no second one can be put on it.
    "overlay file systems": (
        f"mkdir -p {STATE} && d=$(mktemp -d {STATE}/.trial.XXXXXX) && "
        "trap 'umount $d/m 2>/dev/null || :; rm -rf $d' EXIT && "
        "mkdir $d/l $d/u $d/w $d/m && "
        "mount -t overlay overlay -o lowerdir=$d/l,upperdir=$d/u,workdir=$d/w $d/m"
    ),
    "virtual networks": (
        "ip link add trial0 type bridge && ip link add trial1 type veth peer name trial2"
    ),
}


def cgroup_roots():
    """Where the hierarchies that systemd lives in are mounted and writable: a list of paths.

    That is cgroup2 alone on a unified host, name=systemd and perhaps cgroup2 beside it on others.
    """
    roots = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, path, kind, options = line.split()[:4]
        flags = options.split(",")
        systemd = kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in flags)
        if systemd and "ro" not in flags:
            roots.append(Path(path))
    return roots


def available_memory():
    """How much memory programs could still get without swapping, in bytes (proc(5))."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def allow_inotify():
    """Raise the kernel's inotify limits: a box's own sysctl cannot, /proc/sys is read-only there.

    Dovecot hibernates each idle client with an inotify instance; the default is 128.
    """
    for name, least in (("max_user_instances", 65535), ("max_user_watches", 1048576)):
        limit = Path("/proc/sys/fs/inotify") / name
        if int(limit.read_text()) < least:
            with contextlib.suppress(OSError):
                limit.write_text(str(least))
