"""What the old machine may not decide: where links lead, and what certbot runs as root.

Somebody else may control the machine that a relay leaves. So the files that have links, and the
configuration of certbot, are first copied aside. They get their places after a look at them.
"""

import os
import re
from pathlib import Path

from chatmaild.certificate import certbot
from chatmaild.common.errors import OperatorError
from chatmaild.inventory import places

# These have links, or name commands.
CHECKED = tuple(f"/{path}" for path in (places.TLS, places.LIVE, places.RENEWAL))
# The links of a relay lead to a file or a directory beside them, or from certbot's `live` to its
# `archive`. No part of them begins with a dot, so none is "..".
LINK = re.compile(rf"(\.\./\.\./archive/{certbot.LINEAGE}/)?([\w-][\w.-]*/)?[\w-][\w.-]*")


def check(root: Path, path: str) -> None:
    """Check the copy of one of `CHECKED`; take commands out of certbot's configuration.

    root: the directory that has the copy. path: the path on the machine. Raises OperatorError for
    a link of another form.
    """
    copy = Path(f"{root}{path}")
    for each in (copy, *_list_below(copy)):
        if each.is_symlink() and (each == copy or not LINK.fullmatch(os.readlink(each))):
            raise OperatorError(
                f"the old machine has a link {path}{str(each).removeprefix(str(copy))} to "
                f"{os.readlink(each)!r}; expected: one inside of its directory. Somebody may "
                "control that machine; this copy is not in use"
            )
    if path == f"/{places.RENEWAL}" and copy.is_file():
        _keep_our_hook(copy)


def _list_below(directory):
    for parent, directories, files in os.walk(directory):
        yield from (Path(parent, name) for name in (*directories, *files))


def _keep_our_hook(path):
    before = path.read_bytes()
    after = certbot.only_our_hook(before)
    if after != before:
        path.write_bytes(after)
