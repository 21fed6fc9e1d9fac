"""Schedules: what runs on which stream, in which chunks, with which dependencies."""
