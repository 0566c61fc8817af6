"""What the bench reads of the CPU weights that units ask for."""

from bench.shares import weights_in

SHOWN = """\
CPUWeight=10
Id=chatmail-filter.service

CPUWeight=[not set]
Id=dovecot.service

Id=nginx.service
"""


def test_units_without_a_weight_are_left_out():
    assert weights_in(SHOWN) == {"chatmail-filter.service": 10}
