"""The door to the relay's own program: hands a request to it and returns what it answers.

Debian's Python runs the program, with Debian's libraries. Salt's Python needs none of them.
"""

import json
import os
import pwd
import re
import subprocess

from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "chatmail_program"

# `state.apply chatmail.program` puts it there.
PROGRAM = "/usr/local/lib/chatmail"
PYTHON = "/usr/bin/python3"
# What the last converge wrote: the settings that this machine runs with.
SETTINGS = "/etc/chatmail/relay.json"


def __virtual__():
    return __virtualname__


def installed(part="common"):
    """Tell whether the program is on this machine, and has a part.

    part: a subpackage. A release before this one may have had no such part.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_program.installed
    """
    return os.path.exists(os.path.join(PROGRAM, "chatmaild", part, "commands.py"))


def awaited(part):
    """Return what a dry run says that cannot ask the program yet, "" where it can.

    part: a subpackage of the program.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_program.awaited dkim
    """
    if installed(part):
        return ""
    return "This can be looked at once the program is installed (chatmail.program)."


def settings(given=None):
    """Return the settings that functions about DNS and keys go by.

    given: settings that a state has; returned as they are, with `own_addresses`.
    If none are given, they are those that the last converge wrote, whatever the pillar in the
    minion's memory says by now. On a machine that is no relay yet, they are those of the pillar.
    `own_addresses`, the machine's own, is added where `dns:addresses` is not set. Raises
    CommandExecutionError where there are no settings, or wrong ones.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_program.settings
    """
    found = given or _converged() or __salt__["chatmail_relay.settings"]()
    if found["dns"]["addresses"] or "own_addresses" in found:
        return found
    own = __salt__["network.ip_addrs"]() + __salt__["network.ip_addrs6"]()
    return {**found, "own_addresses": own}


def _converged():
    """Return the settings that the last converge wrote, None where there was none."""
    try:
        with open(SETTINGS, encoding="utf-8") as stream:
            return json.load(stream)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CommandExecutionError(
            f"{SETTINGS}: expected JSON, found: {error}. Run: salt-call state.apply chatmail"
        ) from None


def call(part, do, arguments=None, settings=None, user=None):
    """Have a part of the program do something; return the result.

    part: the subpackage, such as `accounts`. do: one of its commands (`commands.py` in it).
    arguments: the command's arguments, by name.
    settings: the relay's settings, or the path of a file that has them; if not given, those that
        the last converge wrote.
    user: whom the program runs as; root if not given.
    The request goes by standard input, where nobody else on the machine sees it. Raises
    SaltInvocationError for a wrong argument, and CommandExecutionError for all else that fails.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_program.call accounts count user=vmail
    """
    if not re.fullmatch(r"[a-z]+", part):
        raise SaltInvocationError(f"part: {part!r}, expected a subpackage such as accounts")
    if not installed(part):
        raise CommandExecutionError(_missing("it is not installed or of an older release"))
    request = {"do": do, "arguments": arguments or {}}
    if settings is not None:
        request["settings"] = settings
    done = _run([PYTHON, "-m", f"chatmaild.{part}.commands"], json.dumps(request), user)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise CommandExecutionError(_failed(part, done)) from None
    if "error" in answer:
        kind = SaltInvocationError if answer.get("invalid") else CommandExecutionError
        raise kind(answer["error"])
    return answer["result"]


def _run(command, request, user):
    """Run the program as a user, in an environment that has nothing of Salt's own Python."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONPATH": PROGRAM,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        command,
        input=request,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        cwd="/",
        env=environment,
        check=False,
        **_identity(user),
    )


def _identity(user):
    """Return what makes a process a user's own."""
    if user is None:
        return {}
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise CommandExecutionError(
            f"there is no user {user} here: run `salt-call state.apply chatmail`"
        ) from None
    groups = os.getgrouplist(user, found.pw_gid)
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": groups}


def _missing(found):
    return (
        f"the relay's program cannot answer, {found}: run `salt-call state.apply chatmail.program` "
        "first, which installs it and changes nothing else"
    )


def _failed(part, done):
    """Return what to say of a program that gave no answer."""
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][-300:]
    if last.startswith("ModuleNotFoundError") or "No module named" in last:
        return _missing(last)
    return f"chatmaild.{part} failed with status {done.returncode}: {last}"
