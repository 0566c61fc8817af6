"""Preparations for all tests."""

import sys

import salt  # noqa: F401

# The import of salt adds a hook for nacl to the import path. The hook has no find_spec, which the
# importlib mode of pytest needs. This can go when Salt's NaclImporter has a find_spec.
sys.meta_path = [hook for hook in sys.meta_path if hasattr(hook, "find_spec")]
