"""Plain single-device models, one folder a family. They know nothing of ranks."""
