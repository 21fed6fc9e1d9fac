"""ndtrain: distributed training whose point is compute-communication overlap.

Importing this package touches no device, imports no torch and sends nothing.
"""

from pathlib import Path

__version__ = "0.1.0"

# `kernels/`, `configs/` and `launch/` stand beside this folder in a checkout and inside it in a
# wheel. Searching both makes `ndtrain.kernels` the same name in either case.
_checkout = Path(__file__).resolve().parent.parent
# (The name is checked because the checkout also holds this very folder, as `ndtrain.ndtrain`.)
_is_checkout = (_checkout / "pyproject.toml").is_file() and (_checkout / "kernels").is_dir()
if __name__ == "ndtrain" and _is_checkout:
    __path__.append(str(_checkout))
