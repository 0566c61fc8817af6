"""Strategies of hypothesis that several test files use."""

from hypothesis import strategies as st

# Public addresses of a machine: IPv4 and IPv6, without duplicates.
PUBLIC_ADDRESSES = st.lists(
    st.one_of(
        st.integers(1, 254).map(lambda n: f"198.51.100.{n}"),
        st.integers(1, 0xFFFF).map(lambda n: f"2001:db8::{n:x}"),
    ),
    min_size=1,
    max_size=6,
    unique=True,
)
