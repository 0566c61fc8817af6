"""What every test needs."""

import sys

import salt  # noqa: F401

# Importing salt puts a hook for nacl into the import path that has no find_spec; pytest's importlib
# mode asks every hook for one and fails. Can go when Salt's NaclImporter has it.
sys.meta_path = [hook for hook in sys.meta_path if hasattr(hook, "find_spec")]
