"""Programs of the machine. One that fails is an error with the last line that it wrote."""

import os
import subprocess

from chatmaild.common.errors import OperatorError


def run(
    *command: str,
    check: bool = True,
    timeout: float | None = None,
    lines: int = 1,
    state: str = "chatmail",
    **environment: str,
) -> subprocess.CompletedProcess:
    """Run a program that can ask nothing; return its CompletedProcess, with text.

    check: False returns a program that failed, too. timeout: seconds, None for no limit. lines: how
    many of the program's last lines the error has. state: the state that installs the program.
    environment: further variables. Raises OperatorError when the program fails, when it is missing,
    and when it has not ended in time.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
        )
    except FileNotFoundError:
        raise OperatorError(
            f"{command[0]} is not installed: run `salt-call state.apply {state}`"
        ) from None
    except subprocess.TimeoutExpired:
        raise OperatorError(f"{command[0]} did not end within {timeout} s") from None
    if check and done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-lines:]) or "no message"
        raise OperatorError(f"{command[0]} failed with status {done.returncode}: {last}")
    return done
