"""A message: its fields and MIME structure, its OpenPGP packets, its octets on the way."""
