"""The door to the relay's own program: it sends a request and returns the answer.

Debian's Python runs the program with Debian's libraries, which Salt's Python does not need.
"""

import json
import os
import pwd
import re
import subprocess

from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "chatmail_program"

# `state.apply chatmail.program` installs the program here.
PROGRAM = "/usr/local/lib/chatmail"
PYTHON = "/usr/bin/python3"
# The last converge wrote here the settings that this machine runs with.
SETTINGS = "/etc/chatmail/relay.json"


def __virtual__():
    return __virtualname__


def installed(part="common"):
    """Return whether the program is on this machine and has a part.

    part: a subpackage. The program of an earlier release may lack it.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_program.installed
    """
    return os.path.exists(os.path.join(PROGRAM, "chatmaild", part, "commands.py"))


def awaited(part):
    """Return the comment of a dry run on a machine without the program, "" on any other.

    part: a subpackage of the program.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_program.awaited dkim
    """
    if installed(part):
        return ""
    return "This can be looked at once the program is installed (chatmail.program)."


def settings(given=None):
    """Return the settings for functions about DNS and keys.

    given: the settings that a state has. By default they are those that the last converge wrote,
        although the pillar in the minion's memory may differ by now. On a machine that is no relay
        yet, they are those of the pillar.
    Without `dns:addresses`, the machine's IP addresses are added as `own_addresses`. Raises
    CommandExecutionError when there are no settings, or wrong ones.

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
    """Return the settings that the last converge wrote, None when there was no converge."""
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
    """Run a command of the program; return its result.

    part: the subpackage, such as `accounts`. do: the command, from `commands.py` in the subpackage.
    arguments: the command's arguments, by name.
    settings: the relay's settings, or the path of a file with the settings. By default the program
        reads the file that the last converge wrote.
    user: the user that runs the program, by default root.
    The request goes by standard input, where no other user of the machine can read it. Raises
    SaltInvocationError for a wrong argument, and CommandExecutionError for any other failure.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_program.call accounts count user=vmail
    """
    if not re.fullmatch(r"[a-z]+", part):
        raise SaltInvocationError(f"part: {part!r}, expected a subpackage such as accounts")
    if not installed(part):
        raise CommandExecutionError(
            _describe_missing("it is not installed, or is of an older release")
        )
    request = {"do": do, "arguments": arguments or {}}
    if settings is not None:
        request["settings"] = settings
    done = _run([PYTHON, "-m", f"chatmaild.{part}.commands"], json.dumps(request), user)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise CommandExecutionError(_describe_failure(part, done)) from None
    if "error" in answer:
        kind = SaltInvocationError if answer.get("invalid") else CommandExecutionError
        raise kind(answer["error"])
    return answer["result"]


def _run(command, request, user):
    """Run the program as a user, without environment variables of Salt's own Python."""
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
    """Return the arguments of subprocess.run() that make a user run the process."""
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


def _describe_missing(found):
    """Return the error text for a program that is missing or lacks a part."""
    return (
        f"the relay's program cannot answer ({found}): first run "
        "`salt-call state.apply chatmail.program`, which installs it and changes nothing else"
    )


def _describe_failure(part, done):
    """Return the error text for a program that gave no answer."""
    last = (done.stderr.strip().splitlines() or ["it wrote no message"])[-1][-300:]
    if last.startswith("ModuleNotFoundError") or "No module named" in last:
        return _describe_missing(last)
    return f"chatmaild.{part} failed with status {done.returncode}: {last}"
