"""The half of the service that sends: it is put together from the settings here."""

from chatmaild.common.federation import Federation
from chatmaild.common.http_client import tls_context
from chatmaild.transport.delivery import Delivery, Transactions
from chatmaild.transport.destinations import Destinations
from chatmaild.transport.https_client import HttpsClient


class Sending:
    """Sends messages to other relays. Make the object inside a running event loop.

    settings: the relay's settings. start: a function that begins the deliveries of a message, as
        `Transactions.start` describes.
    """

    def __init__(self, settings: dict):
        name = settings["hostname"]
        destinations = Destinations(
            (settings["mail_domain"], name),
            use_ipv6=not settings["disable_ipv6"],
            private_networks=settings["federation"]["private_networks"],
        )
        verified, unverified = tls_context(True), tls_context(False)
        self._https = HttpsClient(verified, unverified)
        delivery = Delivery(
            destinations, self._https, name, verified, unverified, Federation(settings)
        )
        self.start = Transactions(delivery.to_domain).start

    async def close(self) -> None:
        """Close the idle connections."""
        await self._https.close()
