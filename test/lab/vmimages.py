"""What a virtual machine needs beyond a box's images: a kernel, sshd, AppArmor; and arm64 itself.

Layers like those of images.py, kept beside them and named in the same way. What belongs to another
architecture than this host's is built by its own programs, which the kernel runs through
qemu-user-static: the same recipe, some twenty times as slow, and once.
"""

import contextlib
import shutil
import time
from pathlib import Path

import images
from host import CACHE, LabError, install_packages, lock, run, say

ARCHITECTURES = ("amd64", "arm64")

# A provider's image has them too. The cloud flavour has the drivers of virtual machines only.
INSTALL_KERNEL = """
apt-get update -q
apt-get install -qy --no-install-recommends linux-image-cloud-{architecture} openssh-server apparmor
apt-get clean
rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_*
"""

# What is not compiled is taken from amd64's wheels, which lie in /wheels already.
BUILD_WHEELS = f"""
apt-get update -q
apt-get install -qy --no-install-recommends python3-venv python3-dev gcc libc6-dev
python3 -m venv /tmp/wheels
/tmp/wheels/bin/pip wheel -q --find-links /wheels --wheel-dir /wheels {images.SALT}
"""

BINFMT = Path("/proc/sys/fs/binfmt_misc")
EMULATOR = "/usr/bin/qemu-aarch64-static"
# ELF, 64 bit, little-endian, executable or shared, AArch64; the kernel itself reads the escapes.
# F opens the emulator now, so that it need not be in each chroot; C keeps setuid programs so.
REGISTRATION = (
    r":qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
    f":{EMULATOR}:OCF"
)


def ensure(release, architecture, proxy, with_salt=True):
    """Build what is missing of a virtual machine's images.

    Returns the directories to lay over each other, topmost first.
    """
    layers = images.ensure(release, proxy, with_salt)
    if architecture == "arm64":
        with lock(f"image-{release}-arm64"):
            layers = ensure_arm64(release, proxy, with_salt)
    # A layer holds dpkg's list of packages: it fits only over those that it was built on.
    script = INSTALL_KERNEL.format(architecture=architecture)
    recipe = images.fingerprint(script, *(layer.name for layer in layers))
    kernel = CACHE / f"{release}-{architecture}-vm-{recipe}"
    with lock(f"image-{kernel.name}"):
        if not kernel.is_dir():
            with programs_of(architecture):
                build_layer(kernel, layers, script)
    return [kernel, *layers]


def ensure_arm64(release, proxy, with_salt):
    """Build what is missing of a release's images for arm64; as images.ensure otherwise."""
    base = CACHE / f"{release}-arm64-{images.fingerprint(release, images.BASE_PACKAGES)}"
    recipe = images.fingerprint(base.name, BUILD_WHEELS, images.INSTALL_SALT)
    layer = CACHE / f"{release}-arm64-salt-{recipe}"
    if not base.is_dir():
        with programs_of("arm64"):
            images.build_base(release, base, proxy, "arm64")
    if with_salt and not layer.is_dir():
        with programs_of("arm64"):
            wheels = ensure_wheels(layer.with_name(layer.name + "-wheels"), release, base)
            build_layer(layer, [base], images.INSTALL_SALT, wheels)
    return [layer, base] if with_salt else [base]


def ensure_wheels(path, release, base):
    """Fetch or compile arm64's wheels of Salt, unless that is done; returns their directory."""
    if not path.is_dir():
        built = images.fresh_directory(path)
        for wheel in images.wheels_path(release).glob("*-none-any.whl"):
            shutil.copy(wheel, built)
        thrown_away = CACHE / f"{path.name}-compiler"
        build_layer(thrown_away, [base], BUILD_WHEELS, built)
        shutil.rmtree(thrown_away)
        built.rename(path)
    return path


def build_layer(path, layers, script, wheels=None):
    """Make a layer over others by running a script as their root, with `wheels` as /wheels."""
    say(f"building {path.name} (once)")
    started = time.monotonic()
    unfinished = images.fresh_directory(path)
    if not wheels:
        wheels = unfinished / "no-wheels"
        wheels.mkdir()
    images.change_layer(":".join(str(layer) for layer in layers), unfinished, wheels, script)
    images.drop_mount_points(unfinished / "upper")
    (unfinished / "upper").rename(path)
    shutil.rmtree(unfinished)
    say(f"  {path.name} in {time.monotonic() - started:.0f} s")


@contextlib.contextmanager
def programs_of(architecture):
    """Have this host's kernel run programs of an architecture, for as long as this lasts.

    A registration that is there already is the machine's own and stays.
    """
    if architecture != "arm64":
        yield
        return
    install_packages(["arch-test", "qemu-user-static"])
    registered = BINFMT / "qemu-aarch64"
    with lock("binfmt"):
        if registered.exists():
            yield
            return
        if not (BINFMT / "register").exists():
            done = run("mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT, check=False)
            if done.returncode != 0:
                raise LabError(f"this kernel cannot run arm64 programs: {done.stderr.strip()}")
        (BINFMT / "register").write_text(REGISTRATION)
        try:
            yield
        finally:
            registered.write_text("-1")
