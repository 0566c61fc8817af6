"""Preparations for all tests."""

import sys

import salt._logging

# The import of salt adds a hook for nacl to the import path. The hook has no find_spec, which the
# importlib mode of pytest needs. This can go when Salt's NaclImporter has a find_spec.
sys.meta_path = [hook for hook in sys.meta_path if hasattr(hook, "find_spec")]

# Until Salt's logging is set up, which no test does, Salt keeps all log records. When Python ended,
# it wrote them to a file of pytest's that was closed: "--- Logging error ---". pytest shows these
# records for each test that fails.
salt._logging.shutdown_temp_handler()
