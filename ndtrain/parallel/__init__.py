"""What turns the plain model into a parallel one: tensor and sequence parallelism, ZeRO."""
