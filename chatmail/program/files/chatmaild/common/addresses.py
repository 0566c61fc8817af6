"""What an address may look like, what a new one must look like, and how to invent one. No I/O."""

import re
import secrets
import string

# RFC 5321 section 4.5.3.1.1, and 4.5.3.1.3 without the two angle brackets. An address is a
# directory's name, too: both stay below NAME_MAX, 255.
MAX_LOCAL_PART = 64
MAX_ADDRESS = 254
# crypt(3) of libxcrypt, which Dovecot verifies with, takes 511 bytes and fails above.
MAX_PASSWORD_BYTES = 511

LOCAL_PART = re.compile(r"[a-z0-9._-]+")

# What is handed out: nothing that a person could misread as punctuation or a URL would escape.
USERNAME_LETTERS = string.ascii_lowercase + string.digits
PASSWORD_LETTERS = string.ascii_letters + string.digits
# 36^9 names: nobody guesses or hits one by chance. 62^12 passwords, 71 bits.
USERNAME_LENGTH = 9
PASSWORD_LENGTH = 12


def is_address(name: str, address_domain: str) -> bool:
    """Tell whether a name can be an address of this settings, and so be used as a directory's name.

    name: whatever a client or another server sent; only lower case is an address.
    address_domain: what stands after the @.
    Lengths and dots are checked loosely: settings change while addresses stay.
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
    """Return why an address may not be created with this password, or None if it may.

    settings: the relay's. The reason names neither address nor password.
    """
    if not is_address(address, settings["address_domain"]):
        return f"not an address of {settings['address_domain']} made of a-z, 0-9, '.', '_' and '-'"
    local_part = address.partition("@")[0]
    # RFC 5321 section 4.1.2, Dot-string: mail could not be written to such an address elsewhere.
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
    """Return a random admissible address and password."""
    wanted = max(USERNAME_LENGTH, settings["username_min_length"])
    username = _random(USERNAME_LETTERS, min(wanted, settings["username_max_length"]))
    password = _random(PASSWORD_LETTERS, max(PASSWORD_LENGTH, settings["password_min_length"]))
    return f"{username}@{settings['address_domain']}", password


def _random(letters, length):
    return "".join(secrets.choice(letters) for _ in range(length))
