"""Measurements: a step against its peers, in interleaved rounds of one process group."""
