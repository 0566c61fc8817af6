"""DKIM (RFC 6376): canonical forms, signing, verifying, and the relay's own keys."""
