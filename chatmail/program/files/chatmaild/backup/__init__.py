"""Backup and restore: one archive, encrypted by age, with the keys and accounts of a relay."""
