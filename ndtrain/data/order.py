"""The order of documents, or of rows, in an epoch: a permutation that is computed, not drawn.

    order_of(1000, seed=0, epoch=3)   # int64 [1000]

A stateless hash rather than a random generator: the same on every platform and for every version
of NumPy, and any epoch is reached without passing the ones before.
"""

import numpy as np

# Constants of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
# OOPSLA 2014; the reference is https://prng.di.unimi.it/splitmix64.c).
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def order_of(num_items: int, seed: int, epoch: int, salt: int = 0) -> np.ndarray:
    """A permutation of range(num_items) that depends on the other arguments alone.

    salt: tells apart the orders that one seed and epoch give to different things.
    """
    stream = _mix(_mix(_word(seed)) ^ _word(epoch)) ^ _word(salt)
    keys = _mix(stream + np.arange(1, num_items + 1, dtype=np.uint64) * _GAMMA)
    return np.argsort(keys, kind="stable")


def _word(value: int) -> np.ndarray:
    # An array, because NumPy warns when scalars wrap around and not when arrays do.
    return np.array([value % 2**64], dtype=np.uint64)


def _mix(state: np.ndarray) -> np.ndarray:
    """SplitMix64's output function, a bijection of 64-bit words; wraps modulo 2**64."""
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))
