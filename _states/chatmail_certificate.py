"""The certificate of a relay: self-signed, of an ACME authority, or the operator's own.

A relay with a test domain or without a domain keeps its self-signed certificate. On other relays
the daemons start with it, until the right certificate replaces it.
"""

import contextlib

from salt.exceptions import SaltException

__virtualname__ = "chatmail_certificate"

AS_WANTED = "The certificate is as wanted."


def __virtual__():
    return __virtualname__


def self_signed(
    name, key, subject_names, group="root", days=3650, days_remaining=30, placeholder=False
):
    """Ensure that a certificate for these names and its private key are there.

    name: path of the certificate (PEM, 0644 root:root).
    key: path of the private key (PKCS#8 PEM, 0640 root:<group>). A usable key (RSA of 2048 bits
        or more, or EC) is kept. Otherwise a new key for P-256 is made.
    subject_names: DNS names or IP addresses. The first one is the subject.
    days: validity of a new certificate.
    days_remaining: a certificate with fewer days left is renewed.
    placeholder: keep any certificate that belongs to the key, such as one that a CA issued.

    Normally the state replaces only the certificate, in one step and for the same key. So
    certificate and key belong together at every moment, even if a run is interrupted.
    Both directories must exist. The key is never shown.

    .. code-block:: yaml

        self-signed certificate:
          chatmail_certificate.self_signed:
            - name: /etc/chatmail/tls/fullchain.pem
            - key: /etc/chatmail/tls/privkey.pem
            - subject_names: [_chat.example.org, www._chat.example.org]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": AS_WANTED}
    wanted = {
        "name": name,
        "key": key,
        "subject_names": subject_names,
        "group": group,
        "days": days,
        "days_remaining": days_remaining,
        "placeholder": placeholder,
        "test": __opts__["test"],
    }
    with _failing(ret):
        if __opts__["test"] and (awaited := __salt__["chatmail_program.awaited"]("certificate")):
            return {**ret, "result": None, "comment": awaited}
        done = _ask("self_signed", wanted)
        ret["changes"] = done["changes"]
        if done["left"]:
            comment = f"The certificate was written, but differs in: {', '.join(done['left'])}."
            ret.update(result=False, comment=comment)
        elif done["changes"] and __opts__["test"]:
            comment = f"The certificate would be set right{done['reason']}."
            ret.update(result=None, comment=comment)
        elif done["changes"]:
            ret["comment"] = f"The certificate was set right{done['reason']}."
    return ret


def acme_account(name, settings):
    """Ensure that this machine has an account with the ACME authority.

    name: URL of the authority's directory. settings: the relay's settings.
    The account comes before the certificate, because a CAA record may name it (RFC 8657).

    .. code-block:: yaml

        account with the authority:
          chatmail_certificate.acme_account:
            - name: https://acme-v02.api.letsencrypt.org/directory
            - settings: {{ relay | json }}
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "There is an account."}
    with _failing(ret):
        if __opts__["test"] and (awaited := __salt__["chatmail_program.awaited"]("certificate")):
            return {**ret, "result": None, "comment": awaited}
        if __salt__["chatmail_certificate.has_account"](settings):
            return ret
        changes = {"account": {"old": None, "new": name}}
        if __opts__["test"]:
            ret.update(result=None, changes=changes, comment="An account would be made.")
            return ret
        __salt__["chatmail_certificate.register"](settings)
        ret.update(changes=changes, comment="An account was made.")
    return ret


def acme(name, settings):
    """Ensure that a certificate of the ACME authority is in use, as far as the authority gives one.

    name: path of the certificate. settings: the relay's settings.
    The certificate lacks a name that the authority cannot validate, and a warning says so. The
    state fails only if no valid certificate for the mail domain is in use at the end. While there
    is one, an error of the authority is a warning. The answer to a challenge comes from nginx,
    which must run (http-01), or from DNS (dns-01).

    .. code-block:: yaml

        certificate of the authority:
          chatmail_certificate.acme:
            - name: /etc/chatmail/tls/fullchain.pem
            - settings: {{ relay | json }}
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": AS_WANTED}
    with _failing(ret):
        if __opts__["test"] and (awaited := __salt__["chatmail_program.awaited"]("certificate")):
            return {**ret, "result": None, "comment": awaited}
        planned = _ask("acme_plan", {}, settings)
        reason, old = planned["reason"], _brief(planned["in_use"])
        if not reason:
            return ret
        if __opts__["test"]:
            ret["changes"] = {"certificate": {"old": old, "new": {"names": settings["tls_names"]}}}
            ret.update(result=None, comment=f"A certificate would be requested: {reason}.")
            return ret
        outcome = __salt__["chatmail_certificate.obtain"](settings)
        new = _brief(__salt__["chatmail_certificate.installed"]())
        if new != old:
            ret["changes"] = {"certificate": {"old": old, "new": new}}
        _tell_outcome(ret, settings, outcome, reason)
    return ret


def _tell_outcome(ret, settings, outcome, reason):
    """Put the outcome of a request into the state's result, comment and warnings."""
    problems = [
        f"{name} is not in the certificate: {why}" for name, why in outcome["missing"].items()
    ]
    if outcome["error"] and not problems:
        problems = [outcome["error"]]
    if settings["mail_domain"] in outcome["missing"]:
        ret["result"] = False
        ret["comment"] = f"No certificate was issued ({reason}): {outcome['error']}"
    elif problems:
        ret["warnings"] = problems
        ret["comment"] = f"The certificate is in use ({reason}), but: {'; '.join(problems)}"
    else:
        ret["comment"] = f"A certificate was issued: {reason}."


def external(name, certificate, key, subject_names):
    """Ensure that the operator's certificate and key are in use.

    name: path of the certificate in use. certificate, key: paths of the operator's files.
    subject_names: names that the certificate should have. A warning lists the names that it lacks.
    The state fails, also under test=True, if a file is missing or unreadable, or if the two do not
    match. The pair in use then stays.

    .. code-block:: yaml

        operator's certificate:
          chatmail_certificate.external:
            - name: /etc/chatmail/tls/fullchain.pem
            - certificate: /etc/ssl/relay/fullchain.pem
            - key: /etc/ssl/relay/privkey.pem
            - subject_names: [chat.example.org]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": AS_WANTED}
    with _failing(ret):
        if __opts__["test"] and (awaited := __salt__["chatmail_program.awaited"]("certificate")):
            return {**ret, "result": None, "comment": awaited}
        planned = _ask("external_plan", {"certificate": certificate, "key": key})
        # Salt counts an empty list as a warning, too.
        if found := _shortcomings(certificate, planned["given"], subject_names):
            ret["warnings"] = found
        if not planned["differs"]:
            return ret
        old, new = _brief(planned["in_use"]), _brief(planned["given"])
        changes = {"certificate": {"old": old, "new": new}}
        if __opts__["test"]:
            ret.update(result=None, changes=changes, comment=f"{certificate} would be put in use.")
        # install() returns False if the path unit, which watches the same files, was faster.
        elif __salt__["chatmail_certificate.install"](certificate, key):
            ret.update(changes=changes, comment=f"{certificate} was put in use.")
    return ret


def _shortcomings(path, given, subject_names):
    """Return the faults of a certificate that do not prevent its use."""
    found = []
    if lacking := sorted(set(subject_names) - set(given["names"])):
        found.append(f"{path} does not name {', '.join(lacking)}")
    if given["days_left"] < 0:
        found.append(f"{path} expired on {given['not_after']}")
    return found


def _brief(found):
    return found and {"names": found["names"], "not_after": found["not_after"]}


def _ask(command, arguments, settings=None):
    return __salt__["chatmail_program.call"](
        "certificate", command, arguments, settings=settings or {}
    )


@contextlib.contextmanager
def _failing(ret):
    """Turn an error into a failed state; what was changed before it stays in `changes`."""
    try:
        yield
    except (SaltException, OSError) as error:
        ret.update(result=False, comment=str(error))
