"""Files that were on the machine before the relay: kept while ours are in their place.

The comment "Managed by the chatmail formula" in a file says that the file is ours.
"""

import contextlib
import os
import shutil

from salt.exceptions import SaltException

__virtualname__ = "chatmail_original"

OURS = "Managed by the chatmail formula"
KEPT = "/var/backups/chatmail"


def __virtual__():
    return __virtualname__


def kept(name, package=None):
    """Ensure that a file which is not ours is kept, before ours replaces it.

    name: path of the file. The copy is below /var/backups/chatmail, with the same owner and mode.
    package: the Debian package that brings the file. Only a dry run uses it.
    The file is copied only once. A file that is missing or is ours is not copied.

    .. code-block:: yaml

        original of nginx is kept:
          chatmail_original.kept:
            - name: /etc/nginx/nginx.conf
            - package: nginx-common
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "There is nothing to keep."}
    with _failing(ret):
        copy = KEPT + name
        if not __salt__["file.file_exists"](name):
            if not __opts__["test"] or not package or package in __salt__["pkg.list_pkgs"]():
                return ret
        elif __salt__["file.contains"](name, OURS):
            return ret
        if os.path.exists(copy):
            ret["comment"] = f"{copy} has it."
            return ret
        ret["changes"] = {"copy": {"old": None, "new": copy}}
        if __opts__["test"]:
            ret.update(result=None, comment=f"It would be copied to {copy}.")
            return ret
        _copy(name, copy)
        ret["comment"] = f"It was copied to {copy}."
    return ret


def restored(name):
    """Ensure that no file of ours is in the place: the kept one is back, or there is none.

    name: path of the file. A file that is not ours stays.

    .. code-block:: yaml

        original of nginx is back:
          chatmail_original.restored:
            - name: /etc/nginx/nginx.conf
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "No file of ours is there."}
    with _failing(ret):
        if not __salt__["file.file_exists"](name) or not __salt__["file.contains"](name, OURS):
            return ret
        copy = KEPT + name if os.path.exists(KEPT + name) else None
        ret["changes"] = {"file": {"old": "ours", "new": copy}}
        if __opts__["test"]:
            ret.update(result=None, comment="Ours would be replaced or removed.")
            return ret
        if copy:
            _copy(copy, name)
            os.remove(copy)
        else:
            os.remove(name)
        ret["comment"] = "Ours was replaced by the kept one." if copy else "Ours was removed."
    return ret


def _copy(source, target):
    """Copy a file with its owner and mode, so that the target is whole or as before."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    status = os.stat(source)
    shutil.copy2(source, f"{target}.new")
    os.chown(f"{target}.new", status.st_uid, status.st_gid)
    os.replace(f"{target}.new", target)


@contextlib.contextmanager
def _failing(ret):
    """Turn an error into a failed state; what was changed before it stays in `changes`."""
    try:
        yield
    except (SaltException, OSError) as error:
        ret.update(result=False, comment=str(error))
