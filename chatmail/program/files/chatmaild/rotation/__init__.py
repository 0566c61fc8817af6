"""The rotation of DKIM keys, the removal of old keys, and the comparison of keys with DNS."""
