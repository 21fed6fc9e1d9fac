"""Runs on several nodes: SLURM scripts, environment, preflight, and what happens after a run."""
