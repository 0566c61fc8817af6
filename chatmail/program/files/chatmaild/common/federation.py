"""Which domains the relay exchanges mail with: the pillar's two lists (docs/federation.md)."""


class Federation:
    """Knows the lists; built once from the settings and never changed.

    settings: as `/etc/chatmail/relay.json` holds them, the lists' names in lower case.
    """

    def __init__(self, settings: dict):
        self._own: str = settings["address_domain"]
        self._block = frozenset(settings["federation"]["block"])
        self._allow = frozenset(settings["federation"]["allow"])

    def refuses(self, domain: str) -> bool:
        """Return whether no mail is taken from a domain and none sent to it.

        domain: what stands after the @ of an address, in any case.
        """
        domain = domain.lower().rstrip(".")
        if domain == self._own:
            return False
        names = _with_parents(domain)
        if not self._block.isdisjoint(names):
            return True
        return bool(self._allow) and self._allow.isdisjoint(names)


def _with_parents(domain: str) -> list[str]:
    """Return the names that stand for a domain: its own, and those it lies below."""
    if domain.startswith("["):
        return [domain]
    labels = domain.split(".")
    return [".".join(labels[start:]) for start in range(len(labels))]
