"""The bottom layer: errors, files, spans. Standard library only; imports nothing of ndtrain."""
