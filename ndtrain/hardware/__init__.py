"""Tables of what devices can do, with their sources. No torch."""
