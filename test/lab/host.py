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

# The directories for images and boxes. With the variable, a lab has other ones, which are empty.
DIRECTORY = os.environ.get("CHATMAIL_LAB_DIRECTORY", "")
CACHE = Path(DIRECTORY, "cache") if DIRECTORY else Path("/var/cache/chatmail-lab")
STATE = Path(DIRECTORY, "boxes") if DIRECTORY else Path("/var/lib/chatmail-lab")
RUN = Path("/run/chatmail-lab")  # only one lab runs on a machine at a time
RUNNING = RUN / "directory"  # this file has the DIRECTORY of the lab that runs
CHECKOUT = Path(__file__).resolve().parents[2]

# {command that the lab needs: Debian package with this command}
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

# A command in a box has this environment, without the caller's variables.
CLEAN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
    "TERM": os.environ.get("TERM", "dumb"),
}
# A daemon of the lab on this host uses the same directories.
LAB_ENVIRONMENT = {**CLEAN_ENVIRONMENT, "CHATMAIL_LAB_DIRECTORY": DIRECTORY}


class LabError(Exception):
    """An error for the user. The text is one clear sentence."""


def say(text):
    """Print the progress on stderr, because stdout is for the result of a verb."""
    print(text, file=sys.stderr, flush=True)


def run(*argv, **kwargs):
    """Run a command of this host.

    Returns the CompletedProcess, with the output as text. Raises LabError with the end of the
    output when the command fails, unless `check=False`.
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
    """Hold the machine-wide lock `name`. The kernel releases it when this process dies."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    with open(RUN / f"{name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def await_condition(condition, seconds, what):
    """Call `condition` until it returns a true value; return this value.

    Raises LabError with `what` in the text when that takes longer than `seconds`.
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
    """Return the DIRECTORY of the lab that runs on this machine, None when no lab runs."""
    try:
        return RUNNING.read_text()
    except FileNotFoundError:
        return None


# Processes. The kernel may give an old pid to another process. The pid together with the start time
# is unique.


def start_time(pid):
    """Return when a process began, in clock ticks since boot, None after its end."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def start_daemon(pid_file, argv, log):
    """Start a command that goes on after this process, and write it to `pid_file`."""
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
    """Return the pid of the process in `pid_file`, None when the process has ended."""
    try:
        record = json.loads(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    alive = record["start"] is not None and start_time(record["pid"]) == record["start"]
    return record["pid"] if alive else None


def stop_daemon(pid_file):
    """End the process in `pid_file`, if it still runs."""
    pid = daemon_pid(pid_file)
    if pid:
        end_process(pid)
    pid_file.unlink(missing_ok=True)


def end_process(pid, patience=5):
    """End a process by SIGTERM, or by SIGKILL after `patience` seconds."""
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
    """Return the pids of the children of a process, from all of its threads."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found


# The abilities of this machine.


def missing_packages():
    """Return the Debian packages that the lab needs and this machine lacks."""
    return sorted({package for command, package in PACKAGES.items() if not shutil.which(command)})


def install_packages(packages):
    """Install missing Debian packages on this host, and start none of their services."""
    packages = [package for package in packages if not is_installed(package)]
    if not packages:
        return
    if not shutil.which("apt-get"):
        raise LabError(f"install {', '.join(packages)} by hand: this machine has no apt-get")
    say(f"installing {' '.join(packages)}")
    with services_kept_down():
        environment = {**CLEAN_ENVIRONMENT, "DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-q", env=environment)
        run("apt-get", "install", "-qy", "--no-install-recommends", *packages, env=environment)


def is_installed(package):
    """Return whether a package is installed."""
    done = run("dpkg-query", "--show", "--showformat=${db:Status-Status}", package, check=False)
    return done.stdout == "installed"


@contextlib.contextmanager
def services_kept_down():
    """Keep the scripts of packages from starting daemons, because the lab runs its own.

    Debian's policy provides the file policy-rc.d for this (man invoke-rc.d). An existing file is
    the machine's own rule, and stays.
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
    """Return the services that systemd starts when this machine boots."""
    listing = ["systemctl", "list-unit-files", "--type=service", "--state=enabled", "--no-legend"]
    done = run(*listing, check=False) if shutil.which("systemctl") else None
    return {line.split()[0] for line in done.stdout.splitlines() if line} if done else set()


def obstacles():
    """Return the reasons why this machine cannot run the lab, an empty list when it can."""
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
            found.append(f"this kernel has no {what}, or does not allow them to us ({reason})")
            break
    missing = missing_packages()
    if missing and not shutil.which("apt-get"):
        found.append(f"install {', '.join(missing)} by hand: this machine has no apt-get")
    return found


# Each trial runs in its own namespaces, so it leaves nothing behind.
TRIALS = {
    "namespaces": "true",
    "mounts": f"mkdir -p {STATE} && mount -t tmpfs tmpfs {STATE}",
    # If {STATE} is on an overlay, as in Docker, the kernel may refuse a second overlay on it.
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
    """Return the paths of the writable cgroup hierarchies that systemd uses.

    On a unified host this is cgroup2. On other hosts it is name=systemd, and perhaps cgroup2 too.
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
    """Return the bytes of memory that programs can get without swapping (proc(5))."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def allow_inotify():
    """Raise the kernel's inotify limits. A box cannot do this: its /proc/sys is read-only.

    Dovecot needs an inotify instance for each hibernated client. The default limit is 128.
    """
    for name, least in (("max_user_instances", 65535), ("max_user_watches", 1048576)):
        limit = Path("/proc/sys/fs/inotify") / name
        if int(limit.read_text()) < least:
            with contextlib.suppress(OSError):
                limit.write_text(str(least))
