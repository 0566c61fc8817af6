"""The further layers of virtual machines: a kernel, sshd and AppArmor, and all layers for arm64.

The layers are beside those of images.py, with names of the same form. Layers for another
architecture are built by programs of that architecture, which the kernel runs through
qemu-user-static. The recipe is the same, the build is about twenty times slower, and it runs once.
"""

import contextlib
import shutil
from pathlib import Path

import images
from host import CACHE, LabError, install_packages, lock, run

ARCHITECTURES = ("amd64", "arm64")

# An image of a provider has these packages too. The cloud kernel has only drivers for virtual
# machines.
INSTALL_KERNEL = """
apt-get update -q
apt-get install -qy --no-install-recommends linux-image-cloud-{architecture} openssh-server apparmor
apt-get clean
rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_*
"""

# Wheels without compiled code are those of amd64, which are in /wheels already.
BUILD_WHEELS = f"""
apt-get update -q
apt-get install -qy --no-install-recommends python3-venv python3-dev gcc libc6-dev
python3 -m venv /tmp/wheels
/tmp/wheels/bin/pip wheel -q --find-links /wheels --wheel-dir /wheels {images.SALT}
"""

BINFMT = Path("/proc/sys/fs/binfmt_misc")
EMULATOR = "/usr/bin/qemu-aarch64-static"
# ELF, 64 bit, little-endian, executable or shared, AArch64. The kernel itself reads the escapes.
# With F, the kernel opens the emulator now, so it need not be in each chroot. With C, setuid
# programs keep their rights.
REGISTRATION = (
    r":qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
    f":{EMULATOR}:OCF"
)


def ensure(release, architecture, proxy, with_salt=True):
    """Build the missing layers of a virtual machine.

    Returns the directories of the layers, topmost first.
    """
    layers = images.ensure(release, proxy, with_salt)
    if architecture == "arm64":
        with lock(f"image-{release}-arm64"):
            layers = ensure_arm64(release, proxy, with_salt)
    # A layer contains dpkg's list of packages, so it fits only over the layers below it.
    script = INSTALL_KERNEL.format(architecture=architecture)
    recipe = images.fingerprint(script, *(layer.name for layer in layers))
    kernel = CACHE / f"{release}-{architecture}-vm-{recipe}"
    with lock(f"image-{kernel.name}"):
        if not kernel.is_dir():
            with programs_of(architecture):
                images.build_layer(kernel, layers, script)
    return [kernel, *layers]


def ensure_arm64(release, proxy, with_salt):
    """Build the missing images of a release for arm64, like images.ensure."""
    base = CACHE / f"{release}-arm64-{images.fingerprint(release, images.BASE_PACKAGES)}"
    recipe = images.fingerprint(base.name, BUILD_WHEELS, images.INSTALL_SALT)
    layer = CACHE / f"{release}-arm64-salt-{recipe}"
    if not base.is_dir():
        with programs_of("arm64"):
            images.build_base(release, base, proxy, "arm64")
    if with_salt and not layer.is_dir():
        with programs_of("arm64"):
            wheels = ensure_wheels(layer.with_name(layer.name + "-wheels"), release, base)
            images.build_layer(layer, [base], images.INSTALL_SALT, wheels)
    return [layer, base] if with_salt else [base]


def ensure_wheels(path, release, base):
    """Fetch or compile the missing wheels of Salt for arm64; return their directory."""
    if not path.is_dir():
        built = images.fresh_directory(path)
        for wheel in images.wheels_path(release).glob("*-none-any.whl"):
            shutil.copy(wheel, built)
        thrown_away = CACHE / f"{path.name}-compiler"
        images.build_layer(thrown_away, [base], BUILD_WHEELS, built)
        shutil.rmtree(thrown_away)
        built.rename(path)
    return path


@contextlib.contextmanager
def programs_of(architecture):
    """Let this host's kernel run programs of an architecture within a `with` block.

    An existing registration is the machine's own, and stays.
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
