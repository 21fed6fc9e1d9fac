"""The learning rate of each step, a pure function of the settings.

cosine (Loshchilov and Hutter 2017, arXiv:1608.03983); wsd: warm up, stay, decay linearly (Hu et al.
2024, arXiv:2404.06395); constant. Every schedule begins with a linear warm-up.
"""

import math

from ndtrain.config.schema import Optim


def learning_rate(settings: Optim, step: int, num_steps: int) -> float:
    """The rate of optimizer step `step`, counted from 1 to num_steps."""
    if step <= settings.warmup_steps:
        return settings.lr * step / settings.warmup_steps
    return settings.lr * _share(settings, step, num_steps)


def _share(settings: Optim, step: int, num_steps: int) -> float:
    """Of the peak, after the warm-up; reaches final_lr_ratio at the last step."""
    floor = settings.final_lr_ratio
    if settings.schedule == "cosine":
        span = max(1, num_steps - settings.warmup_steps)
        progress = (step - settings.warmup_steps) / span
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    if settings.schedule == "wsd":
        remaining = num_steps - step
        return floor + (1 - floor) * min(1.0, remaining / settings.decay_steps)
    return 1.0
