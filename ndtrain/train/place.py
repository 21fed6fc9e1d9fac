"""What the launcher and its ranks agree on: where ranks meet, and how they share the cores."""

from ndtrain.observe.environment import available_cpus

RENDEZVOUS = "NDTRAIN_RENDEZVOUS"  # where local ranks meet: an init_method of torch.distributed


def threads_per_rank(num_local_ranks: int) -> int:
    """Ranks share the cores; more threads than cores would fight for them."""
    return max(1, available_cpus() // num_local_ranks)
