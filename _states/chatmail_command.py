"""Commands that run where they are needed.

For `onlyif`, `unless` and `creates` of any state, Salt 3008 looks for the function mod_run_check,
which no state module has, and loads 400 files in search of it. That takes longer than all states
of the relay. So these conditions stand in `clean.sls` only.
"""

import contextlib

from salt.exceptions import CommandExecutionError, SaltException

__virtualname__ = "chatmail_command"


def __virtual__():
    return __virtualname__


def run(name, needed):
    """Ensure that a command has run if it is needed.

    name: the command, for the shell. needed: a command for the shell, which succeeds if `name` has
        to run.
    The change is {"needed": {"old": True, "new": False}}. The state fails if the command fails.

    .. code-block:: yaml

        key is made:
          chatmail_command.run:
            - name: head -c 32 /dev/urandom > /etc/key
            - needed: test ! -s /etc/key
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "It is not needed."}
    with _failing(ret):
        if __salt__["cmd.retcode"](needed, python_shell=True, ignore_retcode=True) != 0:
            return ret
        changes = {"needed": {"old": True, "new": False}}
        if __opts__["test"]:
            ret.update(result=None, changes=changes, comment="It would run.")
            return ret
        answer = __salt__["cmd.run_all"](name, python_shell=True, ignore_retcode=True)
        if answer["retcode"] != 0:
            output = answer["stderr"] or answer["stdout"]
            raise CommandExecutionError(f"It ended with status {answer['retcode']}: {output}")
        ret.update(changes=changes, comment="It has run.")
    return ret


@contextlib.contextmanager
def _failing(ret):
    """Turn an error into a failed state; what was changed before it stays in `changes`."""
    try:
        yield
    except (SaltException, OSError) as error:
        ret.update(result=False, comment=str(error))
