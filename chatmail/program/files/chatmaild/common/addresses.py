"""The form of an address, the stricter form of a new address, and random new addresses. No I/O."""

import re
import secrets
import string

# RFC 5321 section 4.5.3.1.1, and 4.5.3.1.3 without the two angle brackets. An address is also the
# name of a directory, so both limits stay below NAME_MAX, 255.
MAX_LOCAL_PART = 64
MAX_ADDRESS = 254
# Dovecot verifies passwords with crypt(3) of libxcrypt, which takes at most 511 bytes.
MAX_PASSWORD_BYTES = 511

LOCAL_PART = re.compile(r"[a-z0-9._-]+")

# The characters of random addresses and passwords: letters and digits only. A person cannot
# misread them as punctuation, and a URL does not escape them.
USERNAME_LETTERS = string.ascii_lowercase + string.digits
PASSWORD_LETTERS = string.ascii_letters + string.digits
# There are 36^9 names, so nobody finds one by guessing. 62^12 passwords are 71 bits.
USERNAME_LENGTH = 9
PASSWORD_LENGTH = 12


def is_address(name: str, address_domain: str) -> bool:
    """Return whether a name has the form of an address of this relay.

    name: any text from a client or another server. An address is in lower case.
    address_domain: the relay's own domain, as it stands after the @.
    The limits of new addresses do not count here, because existing addresses stay when an operator
    changes those limits. A name of this form is safe as the name of a directory.
    """
    local_part, at, domain = name.partition("@")
    return (
        at == "@"
        and domain == address_domain
        and LOCAL_PART.fullmatch(local_part) is not None
        and len(local_part) <= MAX_LOCAL_PART
        and len(name) <= MAX_ADDRESS
        and ".." not in local_part
    )


def inadmissible(address: str, password: str, settings: dict) -> str | None:
    """Return the reason why an address must not be created with this password, None without one.

    settings: the relay's settings. The reason contains neither the address nor the password.
    """
    if not is_address(address, settings["address_domain"]):
        return f"not an address of {settings['address_domain']} made of a-z, 0-9, '.', '_' and '-'"
    local_part = address.partition("@")[0]
    # RFC 5321 section 4.1.2, Dot-string: other mail programs refuse to write to such an address.
    if local_part.startswith(".") or local_part.endswith("."):
        return "a user name neither begins nor ends with a dot"
    shortest, longest = settings["username_min_length"], settings["username_max_length"]
    if not shortest <= len(local_part) <= longest:
        return f"a user name has {shortest} to {longest} characters"
    if len(password) < settings["password_min_length"]:
        return f"a password has at least {settings['password_min_length']} characters"
    if len(password.encode()) > MAX_PASSWORD_BYTES or "\0" in password:
        return f"a password has at most {MAX_PASSWORD_BYTES} bytes, none of them zero"
    return None


def new_credentials(settings: dict) -> tuple[str, str]:
    """Return a random address and a random password that the settings admit."""
    wanted = max(USERNAME_LENGTH, settings["username_min_length"])
    username = _choose(USERNAME_LETTERS, min(wanted, settings["username_max_length"]))
    password = _choose(PASSWORD_LETTERS, max(PASSWORD_LENGTH, settings["password_min_length"]))
    return f"{username}@{settings['address_domain']}", password


def _choose(letters, length):
    return "".join(secrets.choice(letters) for _ in range(length))
