"""Root file systems, which are built once and shared by all boxes.

`debian-13` is a minimal Debian, like an image of a provider. `debian-13-salt` is a layer over it
with Salt, so that a box need not install Salt each time. `debian-13-packages` is a layer over both
with Debian's packages of a relay, for tests that need many relays: apt takes most of the time of a
first converge. Beside them are the wheels of Salt, and of all other Python packages that this
repository needs. The names of the directories contain a fingerprint of their recipe. A changed
recipe makes a new image, and running boxes keep the old one.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from host import CACHE, CHECKOUT, CLEAN_ENVIRONMENT, LabError, lock, run, say

SUITES = {"debian-12": "bookworm", "debian-13": "trixie"}

BASE_PACKAGES = (
    "systemd,systemd-sysv,dbus,libpam-systemd,iproute2,iputils-ping,ca-certificates,procps"
)

GROUPS = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["dependency-groups"]
REQUIREMENTS = GROUPS["lint"] + GROUPS["test"]
(SALT,) = [requirement for requirement in REQUIREMENTS if requirement.startswith("salt==")]

# One of Salt's dependencies exists as source only. It is compiled in a layer that is thrown away,
# so the images have no compiler. pip is among the wheels, because that of Debian 12 does not know
# dependency groups.
BUILD_WHEELS = f"""
apt-get update -q
apt-get install -qy --no-install-recommends python3-venv python3-dev gcc libc6-dev
python3 -m venv /tmp/wheels
/tmp/wheels/bin/pip wheel -q --wheel-dir /wheels 'pip>=25.1' {shlex.join(REQUIREMENTS)}
"""

# Debian has no package of Salt. Users of pip install it like this, with a directory and links.
INSTALL_SALT = f"""
apt-get update -q
apt-get install -qy --no-install-recommends python3-venv
apt-get clean
rm -rf /var/lib/apt/lists/*
python3 -m venv /opt/salt
/opt/salt/bin/pip install -q --no-index --find-links /wheels {SALT}
ln -s /opt/salt/bin/salt* /usr/local/bin/
mkdir -p /etc/salt/minion.d /srv/formulas/chatmail /srv/pillar
"""

# What the formula installs on every relay. A box installs what is missing here.
PACKAGES = (
    "coturn dns-root-data dovecot-auth-lua dovecot-core dovecot-imapd dovecot-lmtpd "
    "libnginx-mod-stream nginx postfix python3-cryptography python3-dnspython python3-h11 "
    "python3-jinja2 python3-markdown python3-segno tcc unbound"
)

# No service starts here (man invoke-rc.d), and none starts with a box before the formula wants it.
INSTALL_PACKAGES = f"""
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 0755 /usr/sbin/policy-rc.d
apt-get update -q
apt-get install -qy --no-install-recommends {PACKAGES}
apt-get clean
rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d
systemctl disable coturn dovecot nginx postfix unbound
"""


def fingerprint(*recipe):
    """Return eight hex digits that change when the recipe changes."""
    return hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:8]


def base_path(release):
    """Return the path of a release's image, which may not exist yet."""
    return CACHE / f"{release}-{fingerprint(release, BASE_PACKAGES)}"


def salt_path(release):
    """Return the path of the layer with Salt, which may not exist yet."""
    recipe = fingerprint(release, BASE_PACKAGES, BUILD_WHEELS, INSTALL_SALT)
    return CACHE / f"{release}-salt-{recipe}"


def packages_path(release):
    """Return the path of the layer with Debian's packages of a relay, which may not exist yet."""
    recipe = fingerprint(salt_path(release).name, INSTALL_PACKAGES)
    return CACHE / f"{release}-packages-{recipe}"


def wheels_path(release):
    """Return the directory with the wheels of Salt, the tests and lint, for a release's Python."""
    return salt_path(release).with_name(salt_path(release).name + "-wheels")


def ensure(release, proxy, with_salt=True, with_packages=False):
    """Build the missing images and wheels of a release.

    proxy: the URL of the apt proxy. Returns the directories of the layers, topmost first. Two
    processes that need the same image wait for each other.
    """
    base, layer, packages = base_path(release), salt_path(release), packages_path(release)
    with lock(f"image-{release}"):
        if not base.is_dir():
            build_base(release, base, proxy)
        if not layer.is_dir():
            build_salt(release, base, layer)
        if with_packages and not packages.is_dir():
            build_layer(packages, [layer, base], INSTALL_PACKAGES)
    if with_packages:
        return [packages, layer, base]
    return [layer, base] if with_salt else [base]


def ensure_all(releases, proxy, with_packages=False):
    """Build the missing images of several releases in parallel.

    The builds mostly wait for packages. Raises LabError with the errors of all failed builds.
    """

    def build(release):
        try:
            ensure(release, proxy, with_packages=with_packages)
        except LabError as error:
            return f"{release}: {error}"
        return None

    with ThreadPoolExecutor(len(releases)) as pool:
        failed = [reason for reason in pool.map(build, releases) if reason]
    if failed:
        raise LabError("\n".join(failed))


def fresh_directory(path):
    """Return an empty directory beside `path`. The rest of an unfinished build is removed."""
    unfinished = path.with_name(path.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished


def build_base(release, path, proxy, architecture=None):
    """Make a minimal Debian from the machine's default package source."""
    patience = "a quarter of an hour, with emulation" if architecture else "half a minute"
    say(f"building {path.name} (once; about {patience})")
    started = time.monotonic()
    unfinished = fresh_directory(path)
    run(
        "mmdebstrap",
        "--variant=minbase",
        f"--include={BASE_PACKAGES}",
        f'--aptopt=Acquire::http::Proxy "{proxy}"',
        # A box is thrown away, so its packages need not be flushed to the disk.
        "--dpkgopt=force-unsafe-io",
        *([f"--architectures={architecture}"] if architecture else []),
        SUITES[release],
        unfinished,
        cwd="/",
        env={**CLEAN_ENVIRONMENT, "TMPDIR": str(CACHE)},
    )
    unfinished.chmod(0o755)
    unfinished.rename(path)
    say(f"  {path.name} in {time.monotonic() - started:.0f} s")


def build_salt(release, base, path):
    """Make the wheels, and the layer with Salt."""
    say(f"fetching wheels and installing {SALT} for {release} (once; about two minutes)")
    wheels = wheels_path(release)
    if not wheels.is_dir():
        built = fresh_directory(wheels)
        change_layer(base, fresh_directory(path), built, BUILD_WHEELS)
        built.rename(wheels)
    build_layer(path, [base], INSTALL_SALT, wheels)


def build_layer(path, layers, script, wheels=None):
    """Make a layer over others. A script runs there as root, with `wheels` as /wheels."""
    say(f"building {path.name} (once)")
    started = time.monotonic()
    unfinished = fresh_directory(path)
    if not wheels:
        wheels = unfinished / "no-wheels"
        wheels.mkdir()
    change_layer(":".join(str(layer) for layer in layers), unfinished, wheels, script)
    drop_mount_points(unfinished / "upper")
    (unfinished / "upper").rename(path)
    shutil.rmtree(unfinished)
    say(f"  {path.name} in {time.monotonic() - started:.0f} s")


def change_layer(base, build, wheels, script):
    """Run a script as root in an image, with this host's network and pip settings.

    The files that it writes are in `build`/upper. Those that it writes to /wheels are in `wheels`.
    """
    for name in ("upper", "work", "root"):
        (build / name).mkdir()
    # Of the caller's environment, only the settings of pip are used.
    pip = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
    commands = "\n".join(chroot_script(base, build, wheels, script))
    done = subprocess.run(
        # With its own mount namespace, a crash leaves no mount behind.
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", commands],
        capture_output=True,
        text=True,
        env={**CLEAN_ENVIRONMENT, **pip, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        log = "\n".join(part.strip() for part in (done.stdout, done.stderr))
        raise LabError(f"cannot build {build.stem}: {log[-4000:]}")


def drop_mount_points(layer):
    """Delete the empty files and directories on which directories of the host were mounted."""
    for target in ["/wheels", *(target for _, target in host_files())]:
        path = layer / target.lstrip("/")
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def chroot_script(base, build, wheels, script):
    """Yield shell lines that mount the layer and this host's settings, and run the script there."""
    root = build / "root"
    yield (
        f"mount -t overlay overlay {root} "
        f"-o lowerdir={base},upperdir={build}/upper,workdir={build}/work"
    )
    # The mounts end with the namespace of this script, and the layer keeps none of their files.
    yield f"mkdir -p {root}/wheels && mount --bind {wheels} {root}/wheels"
    yield f"mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev"
    yield f"mount -t tmpfs tmpfs {root}/tmp && mount -t tmpfs tmpfs {root}/root"
    for source, target in host_files():
        quoted = shlex.quote(f"{root}{target}")
        if source.is_dir():
            yield f"mkdir -p {quoted}"
        else:
            yield f"mkdir -p $(dirname {quoted}) && [ -e {quoted} ] || : > {quoted}"
        yield f"mount -o bind,ro {shlex.quote(str(source))} {quoted}"
    yield f"chroot {root} sh -ec {shlex.quote(script)}"


def host_files():
    """Yield the files that pip and the resolver read: (path on this host, path in the chroot)."""
    yield Path("/etc/resolv.conf").resolve(), "/etc/resolv.conf"
    yield Path("/etc/ssl/certs/ca-certificates.crt").resolve(), "/etc/ssl/certs/ca-certificates.crt"
    settings = {Path("/etc/pip.conf"): "/etc/pip.conf"}
    home = Path.home()
    for path in (home / ".pip/pip.conf", home / ".config/pip/pip.conf"):
        settings[path] = "/root/.config/pip/pip.conf"
    words = " ".join(value for key, value in os.environ.items() if key.startswith("PIP_"))
    for path, target in settings.items():
        if path.is_file():
            words += " " + path.read_text()
            yield path, target
    # A package source may be a local directory with an index, which links to other files there.
    for local in sorted(local_directories(words)):
        yield local, str(local)


def local_directories(words):
    """Return the directories of this host that pip settings name, as paths or file:// URLs.

    The parent of a nested directory is used. The parent of a directory such as /opt/packages is
    not, because it would hide the box's own /opt.
    """
    found = set()
    for word in words.split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.is_dir() and len(path.parts) > 2:
            found.add(path if len(path.parts) == 3 else path.parent)
    return found
