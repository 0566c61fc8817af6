"""A message: its header fields, MIME structure and OpenPGP packets, and its storage."""
