"""Moves a relay to another machine: mail off and on, and a copy straight between two machines."""
