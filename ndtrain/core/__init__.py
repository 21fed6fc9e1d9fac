"""The bottom layer: errors, units, files, spans. Standard library only; imports nothing of ndtrain."""
