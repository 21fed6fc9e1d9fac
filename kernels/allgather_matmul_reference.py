"""allgather_matmul in NumPy, for all ranks at once: the product, computed in float64."""

import numpy as np


def allgather_matmul(x_tRH: np.ndarray, w_tHF: np.ndarray, num_ranks: int) -> np.ndarray:
    """Returns y [t, t, R, F]: y[i] is what rank i returns for its shard x[i] and its w[i].

    A single rank cannot see the others' shards, so that this takes and returns all ranks' arrays.
    """
    assert len(x_tRH) == len(w_tHF) == num_ranks
    shards = np.asarray(x_tRH).astype(np.float64)
    weights = np.asarray(w_tHF).astype(np.float64)
    y = np.einsum("rih,khf->krif", shards, weights)
    return y.astype(np.asarray(x_tRH).dtype)
