"""The certificate: what it says, how it is put in use, and where it comes from."""
