"""The domains with which the relay exchanges mail: the pillar's two lists (docs/federation.md)."""


class Federation:
    """The two lists. A service makes one object from the settings and never changes it.

    settings: the content of `/etc/chatmail/relay.json`. The lists hold names in lower case.
    """

    def __init__(self, settings: dict):
        self._own: str = settings["address_domain"]
        self._block = frozenset(settings["federation"]["block"])
        self._allow = frozenset(settings["federation"]["allow"])

    def refuses(self, domain: str) -> bool:
        """Return whether the relay neither accepts mail from a domain nor sends mail to it.

        domain: the part of an address after the @, in upper or lower case.
        """
        domain = domain.lower().rstrip(".")
        if domain == self._own:
            return False
        names = _with_parents(domain)
        if not self._block.isdisjoint(names):
            return True
        return bool(self._allow) and self._allow.isdisjoint(names)


def _with_parents(domain: str) -> list[str]:
    """Return the names that match a domain in a list: the domain itself and its parents."""
    if domain.startswith("["):
        return [domain]
    labels = domain.split(".")
    return [".".join(labels[start:]) for start in range(len(labels))]
