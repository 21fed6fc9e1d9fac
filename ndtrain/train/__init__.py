"""The trainer: launch -> worker -> build (the composition root) -> loop -> step."""
