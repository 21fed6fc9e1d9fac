"""The dtypes of computation by their names in the configuration."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
