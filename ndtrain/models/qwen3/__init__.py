"""Qwen3 (and, without QK-norm, Llama): `shape` needs no torch; `model` and `generate` do."""
