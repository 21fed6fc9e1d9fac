"""What every contestant computes: forward and backward of one shape on one batch. No torch.

replace(DEFAULT, num_ranks=4).check()
"""

from dataclasses import dataclass, replace

from ndtrain.core.errors import UserError, UserErrors
from ndtrain.models.qwen3.shape import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The loss is the mean cross-entropy of the next token over all tokens of the batch.

    dtype: of weights and activations, fp32 or bf16. seed: of weights and tokens.
    """

    shape: Shape
    sequence_length: int
    batch_size: int
    dtype: str
    num_ranks: int
    seed: int = 0

    def check(self) -> None:
        """Raises UserErrors, naming the options, if the ranks cannot share the shape evenly."""
        shape = self.shape
        counts = {
            "--heads": shape.num_heads,
            "--kv-heads": shape.num_kv_heads,
            "--intermediate": shape.intermediate_size,
            "--vocab": shape.vocab_size,
            "--sequence": self.sequence_length,
        }
        errors = [
            UserError(
                f"{option} {count} cannot be divided by --ranks {self.num_ranks}",
                "the command line",
                f"use a multiple of {self.num_ranks}, or fewer ranks",
            )
            for option, count in counts.items()
            if count % self.num_ranks
        ]
        if shape.num_heads % shape.num_kv_heads:
            errors.append(
                UserError(
                    f"--kv-heads {shape.num_kv_heads} does not divide --heads {shape.num_heads}",
                    "the command line",
                    "each key/value head serves the same number of query heads",
                )
            )
        if shape.head_dim % 2:
            errors.append(
                UserError(
                    f"--head-dim {shape.head_dim} is odd",
                    "the command line",
                    "rotary embedding turns pairs of numbers: use an even one",
                )
            )
        if errors:
            raise UserErrors(errors)


def of_replica(workload: Workload, data_rank: int) -> Workload:
    """The same with the tokens of one replica."""
    return replace(workload, seed=workload.seed + data_rank)


# Two layers of Qwen3-0.6B with a small vocabulary: a few seconds a step on one slow core.
DEFAULT = Workload(
    shape=Shape(
        vocab_size=8192,
        hidden_size=1024,
        intermediate_size=3072,
        num_layers=2,
        num_heads=16,
        num_kv_heads=8,
        head_dim=128,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        tie_embeddings=False,
        qk_norm=True,
        max_positions=40960,
    ),
    sequence_length=1024,
    batch_size=1,
    dtype="fp32",
    num_ranks=2,
)
