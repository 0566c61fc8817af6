"""DKIM (RFC 6376): canonical forms, signatures made and verified, the relay's own keys."""
