"""Boxes for the tests in this folder.

    pytest test/relay                        boots a relay of each release, one after the other
    pytest test/relay --os debian-12         boots a relay of one release
    pytest test/relay --box one              uses a box that `lab up one` made, and does not end it
    pytest test/relay --hosts ssh://HOST     uses a machine that was converged by kitchen or by hand

The fixtures are `relay` (a converged machine), `host` (the same machine as pytest-testinfra's
object), `classic` (a mail server that is not a relay), `empty_box` (makes machines for one test),
`idle_box`, `idle_domain_box` and `bare_box` (unconverged machines that a file shares), `domain_box`
(a converged machine with an ACME certificate), `other_relay` (the same of the other release),
`ip_relay` (a converged machine without a domain) and `lab` (runs a verb). After the first of these,
this process is in the lab's client network, with the lab's DNS in its /etc/resolv.conf. So is every
program that it starts: imaplib, smtplib, dnspython and deltachat-rpc-server connect to
`relay.domain` as to any server. The verbs of `lab` work from there too. The resolv.conf is a mount
that only this process has, so the machine does not change.

With --hosts there is no lab. Tests that need its DNS, or further machines, are skipped. Only this
process then resolves `relay.domain` to the address of the machine.
"""

import contextlib
import ctypes
import itertools
import os
import re
from pathlib import Path

import pytest
from lab.host import STATE
from relay.classic import TRUSTED, ClassicServer
from relay.machines import LAB, box_record, elsewhere_relay, lab, lab_relay

RELEASES = ("debian-13", "debian-12")
CLIENT_NAMESPACE = "/run/netns/chatmail-client"
CLIENT_RESOLV_CONF = "/etc/netns/chatmail-client/resolv.conf"


CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000  # linux/sched.h
MS_BIND, MS_REC, MS_SLAVE = 0x1000, 0x4000, 0x80000  # linux/mount.h

counter = itertools.count(1)
missing_lab = []  # the reason why there is no lab, after a test has asked for it


def pytest_addoption(parser):
    group = parser.getgroup("relay")
    group.addoption("--os", action="append", choices=RELEASES, help="Debian release, or both")
    group.addoption("--box", help="a running box of the lab to test, instead of a fresh one")
    group.addoption("--keep-boxes", action="store_true", help="leave the boxes for a look inside")


def pytest_generate_tests(metafunc):
    if "release" in metafunc.fixturenames:
        metafunc.parametrize("release", releases(metafunc.config.option), scope="session")


def releases(option):
    """Return the releases to test: as requested, or that of the box or machine in the options."""
    if option.hosts:
        return ["elsewhere"]
    if option.box:
        return [box_record(option.box)["release"]]
    return option.os or list(RELEASES)


def pytest_collection_modifyitems(items):
    """Let the time limit of a test begin when its machine is ready."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300, func_only=True))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    """Print loudly at the end that machines were not tested, because a skip is easy to overlook."""
    yield
    for reason in missing_lab:
        terminalreporter.section("NO RELAY WAS TESTED", sep="!", red=True, bold=True)
        terminalreporter.line(reason)
        terminalreporter.line("All tests on booted machines were left out. With CI=true they fail.")


@pytest.fixture(scope="session")
def lab_network(request):
    """Put this process into the lab's network. Without a lab, skip; with CI=true, fail."""
    if request.config.option.hosts:
        pytest.skip("needs the lab; the machine under test is elsewhere")
    done = lab("check", check=False)
    if done.returncode != 0:
        reason = f"no lab on this machine: {done.stderr.strip()}"
        missing_lab.append(reason)
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    # Images are built here once. Otherwise each test that needs a box could fail in its time limit.
    if (built := lab("images", "--packages", check=False)).returncode != 0:
        pytest.exit(f"the lab cannot build its images:\n{built.stderr}", returncode=1)
    remove_orphans()
    enter_client()


def remove_orphans():
    """End the boxes of sessions that were killed."""
    for line in lab("list").stdout.splitlines():
        found = re.match(r"((?:d1[23]|fleet)-([0-9]+)-[0-9]+) ", line)
        if found and not Path(f"/proc/{found[2]}").exists():
            lab("down", found[1])


def enter_client():
    """Move this process into the client's network, and give it the client's resolv.conf."""
    with open(CLIENT_NAMESPACE) as namespace:
        libc("setns", namespace.fileno(), CLONE_NEWNET)
    libc("unshare", CLONE_NEWNS)
    libc("mount", None, b"/", None, MS_REC | MS_SLAVE, None)
    libc("mount", CLIENT_RESOLV_CONF.encode(), b"/etc/resolv.conf", None, MS_BIND, None)


def libc(function, *arguments):
    """Call a function of the C library (Python 3.11 has neither setns nor mount)."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, function)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")


def make_box(release, *options):
    """Boot a box with a name that no other session uses; return its Relay."""
    name = f"d{release.removeprefix('debian-')}-{os.getpid()}-{next(counter)}"
    lab("up", name, "--os", release, *options, capture_output=False)
    return lab_relay(name)


def remove_box(box, option):
    """End a box, or print how to look inside."""
    if option.keep_boxes:
        print(f"\nkept: {LAB} run {box.name}   (end it with {LAB} down {box.name})")
    else:
        lab("down", box.name)


@pytest.fixture(scope="session")
def relay(release, request):
    """A converged machine that the tests of the session share. A test must undo its changes."""
    option = request.config.option
    if release == "elsewhere":
        with elsewhere_relay(option) as there:
            yield there
        return
    request.getfixturevalue("lab_network")
    if option.box:
        yield lab_relay(option.box)
        return
    box = make_box(release)
    yield box
    remove_box(box, option)


@pytest.fixture(scope="session")
def host(relay):
    """The machine as pytest-testinfra's object. This replaces the plugin's own fixture."""
    return relay.host


@pytest.fixture(scope="module")
def idle_box(release, request):
    """An unconverged machine that the tests of a file share."""
    with boxes(release, request) as make:
        yield make()


@pytest.fixture(scope="module")
def idle_domain_box(release, request):
    """The same as `idle_box`, with a domain that is not a test domain."""
    with boxes(release, request) as make:
        yield make("--domain", f"chat{os.getpid()}-{next(counter)}.signed.example")


@pytest.fixture(scope="module")
def bare_box(release, request):
    """A machine without Salt, as from a provider, that the tests of a file share."""
    with boxes(release, request) as make:
        yield make("--bare")


@pytest.fixture(scope="session")
def classic(relay, release, request):
    """A classic mail server. While it exists, the relay trusts the authority of its certificates.

    The tests of the session share it, because its packages take half a minute.
    """
    trust = "update-ca-certificates --fresh && systemctl restart chatmail-transport"
    with boxes(release, request) as make:
        server = ClassicServer(make("--bare"))
        root = server.authority.certificate_pem()
        try:
            server.install()
            relay.run(f"install -m 0644 /dev/stdin {TRUSTED} && {trust}", input=root)
            yield server
        finally:
            relay.run(f"rm -f {TRUSTED} && {trust}")
            server.remove()


@pytest.fixture(scope="session")
def ip_relay(release, request):
    """A converged machine whose mail domain is its IP address. The tests of the session share it.

    The box of --box is used if it is such a machine.
    """
    box = request.config.option.box
    if box and box_record(box)["domain"] == lab("ip", box).stdout.strip():
        yield request.getfixturevalue("relay")
        return
    with boxes(release, request) as make:
        made = make("--domain", "ip", "--packages")
        lab("converge", made.name)
        yield made


@pytest.fixture(scope="session")
def domain_box(release, request):
    """A converged machine with an ACME certificate, which the tests of the session share.

    Its domain is in a signed zone. The box of --box is used if it is such a machine.
    """
    named = request.config.option.box
    if named and box_record(named)["domain"].endswith(".signed.example"):
        request.getfixturevalue("lab_network")
        yield lab_relay(named)
        return
    with boxes(release, request) as make:
        yield with_domain(make, release)


@pytest.fixture(scope="session")
def other_relay(release, request):
    """The same as `domain_box`, but of the other Debian release."""
    with boxes(release, request) as make:
        yield with_domain(make, next(other for other in RELEASES if other != release))


def with_domain(make, release):
    """Make and converge a machine whose domain is in the lab's signed zone."""
    domain = f"chat{os.getpid()}-{next(counter)}.signed.example"
    box = make("--domain", domain, "--packages", release=release)
    lab("converge", box.name, capture_output=False)
    return box


@pytest.fixture(scope="module")
def empty_boxes(release, request):
    """As `empty_box`, for all tests of a file."""
    with boxes(release, request) as make:
        yield make


@pytest.fixture
def empty_box(release, request):
    """A function that makes machines for one test.

    `empty_box()` returns a machine with Salt and the pillar, not converged. It takes options of
    `lab up`: `empty_box("--bare")`, `empty_box("--pillar", path)`. The machines end with the test.
    """
    with boxes(release, request) as make:
        yield make


@contextlib.contextmanager
def boxes(release, request):
    """Yield a function that makes unconverged boxes. They end with the context."""
    if release == "elsewhere":
        pytest.skip("needs the lab for a machine of its own; the machine under test is elsewhere")
    request.getfixturevalue("lab_network")
    made = []

    def make(*options, release=release):
        made.append(make_box(release, "--no-converge", *options))
        return made[-1]

    try:
        yield make
    finally:
        for box in made:
            # A test may have ended its box.
            if (STATE / box.name).exists():
                remove_box(box, request.config.option)


@pytest.fixture(scope="session", name="lab")
def lab_verb(lab_network):
    """A function that runs a verb of the lab."""
    return lab
