"""DNS: the records that this relay needs, the comparison with DNS, and the publication."""
