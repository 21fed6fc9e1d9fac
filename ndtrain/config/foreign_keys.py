"""What the keys of other Trainium trainers are called here, for errors and for launch/README.md.

    foreign("tensor_model_parallel_size")       # -> Foreign(..., ours="parallel.tp", note="")
    foreign("distributed_strategy.zero1").note  # -> "always: ..."

From NxD Training (examples/conf/hf_llama3_8B_config.yaml) and optimum-neuron 0.4
(NeuronTrainingArguments, TrainingNeuronConfig). A key without a counterpart has a note instead.
"""

from typing import NamedTuple


class Foreign(NamedTuple):
    """theirs: the whole key as they write it. ours: "" where there is none; the note says why."""

    theirs: str
    ours: str
    note: str = ""


NXDT = (
    Foreign("seed", "run.seed"),
    Foreign("trainer.devices", "", "every device of a node has a rank: `ndtrain slurm --hardware`"),
    Foreign("trainer.num_nodes", "", "`ndtrain slurm --nodes`"),
    Foreign("trainer.lnc", "", "follows from the hardware: 1 on trn1, 2 on trn2"),
    Foreign("trainer.max_steps", "train.steps"),
    Foreign("trainer.log_every_n_steps", "observe.log_every"),
    Foreign("trainer.val_check_interval", "train.eval_every"),
    Foreign("trainer.limit_val_batches", "train.eval_rows", "rows over all ranks, not batches"),
    Foreign("trainer.gradient_clip_val", "optim.clip_norm"),
    Foreign("exp_manager.exp_dir", "run.directory"),
    Foreign("exp_manager.resume_if_exists", "checkpoint.resume", "auto is the default"),
    Foreign("exp_manager.resume_from_checkpoint", "checkpoint.resume", "the path of a checkpoint"),
    Foreign("exp_manager.save_xser", "", "checkpoints are safetensors that every layout reads"),
    Foreign("exp_manager.async_checkpointing", "checkpoint.background"),
    Foreign("checkpoint_callback_params.save_top_k", "checkpoint.keep_last", "the newest, by step"),
    Foreign("checkpoint_callback_params.every_n_train_steps", "checkpoint.every_steps"),
    Foreign("distributed_strategy.tensor_model_parallel_size", "parallel.tp"),
    Foreign("distributed_strategy.pipeline_model_parallel_size", "", "there is no pipeline"),
    Foreign("distributed_strategy.context_parallel_size", "", "there is no context parallelism"),
    Foreign("distributed_strategy.zero1", "", "always: ZeRO-1 over the data-parallel ranks"),
    Foreign("distributed_strategy.sequence_parallel", "", "always where parallel.tp > 1"),
    Foreign("distributed_strategy.kv_replicator", "", "follows: tp / model.num_kv_heads copies"),
    Foreign("data.micro_batch_size", "train.micro_batch_size"),
    Foreign("data.global_batch_size", "train.global_batch_size"),
    Foreign("data.train_dir", "data.paths"),
    Foreign("data.val_dir", "data.held_out_fraction", "a share of the documents"),
    Foreign("data.seq_length", "data.sequence_length"),
    Foreign("model.encoder_seq_length", "data.sequence_length"),
    Foreign("model.max_position_embeddings", "model.max_positions"),
    Foreign("model.qkv_linear", "", "always: query, key and value are one product"),
    Foreign("model.fuse_qkv", "", "always: query, key and value are one product"),
    Foreign("model.activations_checkpoint_granularity", "train.recompute"),
    Foreign("fusions.flash_attention", "ops.attention"),
    Foreign("sched.warmup_steps", "optim.warmup_steps"),
    Foreign("precision.type", "train.compute_dtype"),
    Foreign("precision.master_weights", "", "always fp32"),
    Foreign("precision.fp32_grad_acc", "", "always fp32"),
    Foreign("precision.neuron_rt_stochastic_rounding_en", "cluster.environment"),
    Foreign("compiler_flags", "cluster.environment", "NEURON_CC_FLAGS=..."),
    Foreign("compiler_cache_url", "cluster.environment", "NEURON_COMPILE_CACHE_URL=..."),
    Foreign("aync_exec_max_inflight_requests", "cluster.environment"),
    Foreign("bucket_size_collectives", "overlap.bucket_megabytes"),
    Foreign("neuron_rt_exec_timeout", "cluster.environment", "NEURON_RT_EXEC_TIMEOUT=..."),
)

_SAYS_NOTHING = ("type",)  # without the section before it

OPTIMUM = (
    Foreign("model_id", "model.weights", "the folder; the size is a preset, e.g. sizes/qwen3_8b"),
    Foreign("tensor_parallel_size", "parallel.tp"),
    Foreign("disable_sequence_parallel", "", "sequence parallelism comes with parallel.tp > 1"),
    Foreign("sequence_parallel_enabled", "", "always where parallel.tp > 1"),
    Foreign("kv_size_multiplier", "", "follows: tp / model.num_kv_heads copies"),
    Foreign("pipeline_parallel_size", "", "there is no pipeline"),
    Foreign("zero_1", "", "always: ZeRO-1 over the data-parallel ranks"),
    Foreign("bf16", "train.compute_dtype"),
    Foreign("use_xser", "", "checkpoints are safetensors that every layout reads"),
    Foreign("async_save", "checkpoint.background"),
    Foreign("num_local_ranks_per_step", "", "a rank reads only its own slices of a checkpoint"),
    Foreign("per_device_train_batch_size", "train.micro_batch_size"),
    Foreign(
        "gradient_accumulation_steps",
        "train.global_batch_size",
        "rows of a step; the rest follows",
    ),
    Foreign("learning_rate", "optim.lr"),
    Foreign("lr_scheduler_type", "optim.schedule"),
    Foreign("max_length", "data.sequence_length"),
    Foreign("packing", "", "always"),
    Foreign("attn_implementation", "ops.attention"),
    Foreign("resume_from_checkpoint", "checkpoint.resume"),
)


def foreign(key: str, is_own_section: bool = False) -> Foreign | None:
    """By the whole key, else by its last part; None if neither is one of theirs.

    is_own_section: the key begins with a section of ours, so that its end alone says nothing.
    """
    last = key.rpartition(".")[2].replace("-", "_")
    rows = (*NXDT, *OPTIMUM)
    exact = next((row for row in rows if row.theirs == key), None)
    if exact is not None or is_own_section or last in _SAYS_NOTHING:
        return exact
    return next((row for row in rows if row.theirs.rpartition(".")[2] == last), None)
