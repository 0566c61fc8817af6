"""Take over a machine that cmdeploy of chatmail/relay set up, in place (docs/adoption.md).

`plan` says what would happen, `start` prepares the machine, `state.apply chatmail` makes the relay,
and `undo` goes back until the first night. The package `chatmaild.adopt` does the work, so
`state.apply chatmail.program` comes first. That changes nothing else.
"""

import salt.utils.yaml
from salt.exceptions import CommandExecutionError

__virtualname__ = "chatmail_adopt"


def __virtual__():
    return __virtualname__


def plan():
    """Return what a take-over of this machine would do. Changes nothing, and needs no pillar.

    A dictionary: `state` (ready, refused; begun or serving after `start`), `problems` (why it is
    refused, [] if it is not), `domain`, `version`, `pillar` (YAML to put into the machine's
    pillar), `without_equivalent` ({setting: reason}), `lost`, `removed` (paths), `to_do` and
    `found` (numbers). After `start`: `done`, `next`, `seconds_without_mail` and `undo_until`. The
    exit code is 1 when the machine is refused. Raises CommandExecutionError on a machine that
    cmdeploy did not set up.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_adopt.plan
    """
    listeners = __salt__["chatmail_relay.ports"]()
    found = __salt__["chatmail_program.call"]("adopt", "plan", {"listeners": listeners}, {})
    if "pillar" in found:
        found["pillar"] = salt.utils.yaml.safe_dump(
            {"chatmail": found["pillar"]}, default_flow_style=False, sort_keys=False
        )
    if found["state"] == "refused":
        __context__["retcode"] = 1
    return found


def start():
    """Prepare this machine for `state.apply chatmail`, and stop what cmdeploy set up.

    The mail service ends with this function and begins again in `state.apply chatmail`, so run
    both in one line. What is removed is kept in /var/backups/chatmail-adoption. An interrupted run
    goes on where it stopped.

    Returns {"stopped", "next", "differs"}: when the mail service ended (Unix seconds), the next
    command, and the settings of the pillar that change the machine's behaviour. Raises
    CommandExecutionError, with nothing changed, for each reason that `plan` has under `problems`,
    and for a pillar that names another domain, certificate or mailbox directory than the machine.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_adopt.start && salt-call state.apply chatmail
    """
    low = __salt__["state.show_low_sls"]("chatmail")
    if not all(isinstance(state, dict) for state in low):
        errors = "\n".join(map(str, low))
        if "No matching sls" in errors:
            errors += (
                ". `start` needs the formula and the pillar, and salt-ssh sends neither: run it "
                "with salt-call on the machine, where `bootstrap.sh --adopt` brings both"
            )
        raise CommandExecutionError(errors)
    arguments = {
        "listeners": __salt__["chatmail_relay.ports"](),
        "packages": _list_packages(low),
    }
    settings = __salt__["chatmail_relay.settings"]()
    return __salt__["chatmail_program.call"]("adopt", "start", arguments, settings)


def _list_packages(low):
    """Return the names of all packages that these states install."""
    ours = [each for each in low if each["state"] == "chatmail_package"]
    return sorted({name for each in ours for name in each.get("pkgs", ())})


def undo():
    """Remove the relay, and put back what cmdeploy had set up. Possible until the first night.

    Mail, addresses and device tokens of the time between stay. An interrupted run is run again.
    Returns {"started"}: the units that run again. Raises CommandExecutionError, with nothing
    changed, where it is too late, where Dovecot's former packages are gone, and with a pillar that
    tells `chatmail.clean` to delete the mail.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_adopt.undo
    """
    if __salt__["chatmail_relay.settings"]()["clean"]["purge"]:
        raise CommandExecutionError(
            "pillar chatmail:clean:purge is true, so the removal of the relay would delete all "
            "mail and keys: remove it from the pillar, then run undo again"
        )
    if not __salt__["chatmail_program.installed"]("adopt"):
        # An earlier `undo` was interrupted after it had removed the program.
        _apply("chatmail.program")
    call = __salt__["chatmail_program.call"]
    call("adopt", "check_undo", {}, {})
    _apply("chatmail.clean")
    # The removal took the program, too. The last step needs it.
    _apply("chatmail.program")
    return call("adopt", "undo", {}, {})


def _apply(sls):
    """Apply a state file. Raises CommandExecutionError when a state fails."""
    done = __salt__["state.apply"](sls)
    failed = [f"{each.get('comment')}" for each in _values(done) if each["result"] is False]
    if failed or not isinstance(done, dict):
        raise CommandExecutionError(f"state.apply {sls} failed: {failed or done}")


def _values(done):
    return done.values() if isinstance(done, dict) else []
