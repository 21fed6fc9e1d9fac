"""Weights on disk: our folders of pieces, Hugging Face folders, and the way between them.

open_source(folder)                 a checkpoint, a run directory or a Hugging Face folder
source.shape                        Shape
source.read(name, dim, slices)      our parameter `name`, or slices of it along `dim`
"""
