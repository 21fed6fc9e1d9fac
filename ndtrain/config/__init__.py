"""Configuration: a typed, frozen schema and a strict loader. Imports no torch."""
