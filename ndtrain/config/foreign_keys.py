"""What the keys of other Trainium trainers are called here, for errors and for launch/README.md.

    foreign("tensor_model_parallel_size")       # -> Foreign(..., ours="parallel.tp", note="")
    foreign("distributed_strategy.zero1").note  # -> "always: ..."

From NxD Training (examples/conf/hf_llama3_8B_config.yaml, all of it but what has the same name
here) and optimum-neuron 0.4 (NeuronTrainingArguments, TrainingNeuronConfig). A key without a
counterpart has a note instead.
"""

from typing import NamedTuple


class Foreign(NamedTuple):
    """theirs: the whole key as they write it. ours: "" where there is none; the note says why."""

    theirs: str
    ours: str
    note: str = ""


_OWN_SLICES = "a rank reads only its own slices of a checkpoint"
_SAFETENSORS = "checkpoints are safetensors that every layout reads"
_BY_STEP = "checkpoints are named and kept by step"
_NO_PIPELINE = "there is no pipeline"
_NO_CONTEXT = "there is no context parallelism"
_ROUNDING = "NEURON_RT_STOCHASTIC_ROUNDING_EN=..."
_CALLBACK = "exp_manager.checkpoint_callback_params"

NXDT = (
    Foreign("name", "run.name"),
    Foreign("seed", "run.seed"),
    Foreign("model_source", "", "the model is Qwen3; `ndtrain import` reads other checkpoints"),
    Foreign("trainer.devices", "", "every device of a node has a rank: `ndtrain slurm --hardware`"),
    Foreign("trainer.num_nodes", "", "`ndtrain slurm --nodes`"),
    Foreign("trainer.lnc", "", "follows from the hardware: 1 on trn1, 2 on trn2"),
    Foreign("trainer.max_epochs", "train.steps", "steps; epochs follow one another"),
    Foreign("trainer.max_steps", "train.steps"),
    Foreign("trainer.log_every_n_steps", "observe.log_every"),
    Foreign("trainer.val_check_interval", "train.eval_every"),
    Foreign("trainer.check_val_every_n_epoch", "train.eval_every", "in steps"),
    Foreign("trainer.num_sanity_val_steps", "", "step 0 is evaluated where train.eval_every > 0"),
    Foreign("trainer.limit_val_batches", "train.eval_rows", "rows over all ranks, not batches"),
    Foreign("trainer.limit_test_batches", "", "a run has no test set: `ndtrain eval`"),
    Foreign("trainer.gradient_clip_val", "optim.clip_norm"),
    Foreign("trainer.sequential_move_factor", "", _OWN_SLICES),
    Foreign("exp_manager.log_local_rank_0_only", "", "the first rank prints, all have a log"),
    Foreign("exp_manager.create_tensorboard_logger", "observe.trackers", "[tensorboard]"),
    Foreign("exp_manager.explicit_log_dir", "run.directory"),
    Foreign("exp_manager.exp_dir", "run.directory"),
    Foreign("exp_manager.name", "run.name"),
    Foreign("exp_manager.resume_if_exists", "checkpoint.resume", "auto is the default"),
    Foreign("exp_manager.resume_ignore_no_checkpoint", "checkpoint.resume", "auto does so"),
    Foreign("exp_manager.resume_from_checkpoint", "checkpoint.resume", "the path of a checkpoint"),
    Foreign("exp_manager.create_checkpoint_callback", "checkpoint.every_steps", "0: at the end"),
    Foreign(f"{_CALLBACK}.monitor", "", _BY_STEP),
    Foreign(f"{_CALLBACK}.save_top_k", "checkpoint.keep_last", "the newest, by step"),
    Foreign(f"{_CALLBACK}.mode", "", _BY_STEP),
    Foreign(f"{_CALLBACK}.save_last", "", "the last state is always saved"),
    Foreign(f"{_CALLBACK}.filename", "", _BY_STEP),
    Foreign(f"{_CALLBACK}.model_parallel_size", "", "every layout reads a checkpoint"),
    Foreign(f"{_CALLBACK}.every_n_train_steps", "checkpoint.every_steps"),
    Foreign(f"{_CALLBACK}.use_master_weights_in_ckpt", "", "a checkpoint has the fp32 weights"),
    Foreign("exp_manager.log_parameter_norm", "", "it is not reported"),
    Foreign("exp_manager.log_gradient_norm", "", "always: grad_norm in metrics.jsonl"),
    Foreign("exp_manager.enable_recovery_time_instrumentation", "", "events.jsonl has times"),
    Foreign("exp_manager.save_xser", "", _SAFETENSORS),
    Foreign("exp_manager.load_xser", "", _SAFETENSORS),
    Foreign("exp_manager.save_bf16", "", "a checkpoint has the fp32 weights; `ndtrain export`"),
    Foreign("exp_manager.ckpt_ptl_version", "", _SAFETENSORS),
    Foreign("exp_manager.async_checkpointing", "checkpoint.background"),
    Foreign("distributed_strategy.tensor_model_parallel_size", "parallel.tp"),
    Foreign("distributed_strategy.pipeline_model_parallel_size", "", _NO_PIPELINE),
    Foreign("distributed_strategy.virtual_pipeline_model_parallel_size", "", _NO_PIPELINE),
    Foreign("distributed_strategy.context_parallel_size", "", _NO_CONTEXT),
    Foreign("distributed_strategy.zero1", "", "always: ZeRO-1 over the data-parallel ranks"),
    Foreign("distributed_strategy.sequence_parallel", "", "always where parallel.tp > 1"),
    Foreign("distributed_strategy.kv_replicator", "", "follows: tp / model.num_kv_heads copies"),
    Foreign("data.micro_batch_size", "train.micro_batch_size"),
    Foreign("data.global_batch_size", "train.global_batch_size"),
    Foreign("data.train_dir", "data.paths"),
    Foreign("data.val_dir", "data.held_out_fraction", "a share of the documents"),
    Foreign("data.dev_choose_samples", "data.max_megabytes"),
    Foreign("data.seq_length", "data.sequence_length"),
    Foreign("data.tokenizer.type", "data.tokenizer"),
    Foreign("model.model_config", "", "a size is a preset: `extends: [sizes/qwen3_8b]`"),
    Foreign("model.encoder_seq_length", "data.sequence_length"),
    Foreign("model.max_position_embeddings", "model.max_positions"),
    Foreign("model.qkv_linear", "", "always: query, key and value are one product"),
    Foreign("model.fuse_qkv", "", "always: query, key and value are one product"),
    Foreign("model.transpose_nki_inputs", "", "follows from ops.attention"),
    Foreign("model.use_cpu_initialization", "", "always: the weights depend on run.seed alone"),
    Foreign("model.weight_init_only", "model.weights", "for a run that begins with them"),
    Foreign("model.activations_checkpoint_granularity", "train.recompute"),
    Foreign("model.activations_checkpoint_recompute", "train.recompute", "a fixed list"),
    Foreign("model.fusions.softmax", "cluster.environment", "NEURON_FUSE_SOFTMAX=..."),
    Foreign("model.fusions.flash_attention", "ops.attention"),
    Foreign("model.fusions.ring_attention", "", _NO_CONTEXT),
    Foreign("model.do_layer_norm_weight_decay", "", "norms have no weight decay"),
    Foreign("model.optim.name", "", "always AdamW, with fp32 states"),
    Foreign("model.optim.lr", "optim.lr"),
    Foreign("model.optim.weight_decay", "optim.weight_decay"),
    Foreign("model.optim.betas", "optim.betas"),
    Foreign("model.optim.capturable", "", "always: another rate is no other graph"),
    Foreign("model.optim.sched.name", "optim.schedule"),
    Foreign("model.optim.sched.warmup_steps", "optim.warmup_steps"),
    Foreign("model.optim.sched.max_steps", "train.steps", "a schedule ends with the run"),
    Foreign("model_alignment_strategy", "", "there is no DPO; chats: `data.source: jsonl`"),
    Foreign("precision.type", "train.compute_dtype"),
    Foreign("precision.master_weights", "", "always fp32"),
    Foreign("precision.fp32_grad_acc", "", "always fp32"),
    Foreign("precision.xla_use_bf16", "train.compute_dtype"),
    Foreign("precision.xla_downcast_bf16", "train.compute_dtype"),
    Foreign("precision.parallel_layers_reduce_dtype", "", "sums over ranks are always fp32"),
    Foreign("precision.neuron_rt_stochastic_rounding_en", "cluster.environment", _ROUNDING),
    Foreign("compiler_flags", "cluster.environment", "NEURON_CC_FLAGS=..."),
    Foreign("compiler_cache_url", "cluster.environment", "NEURON_COMPILE_CACHE_URL=..."),
    Foreign(
        "aync_exec_max_inflight_requests",
        "cluster.environment",
        "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS=...",
    ),
    Foreign("bucket_size_collectives", "overlap.bucket_megabytes"),
    Foreign("neuron_rt_exec_timeout", "cluster.environment", "NEURON_RT_EXEC_TIMEOUT=..."),
    Foreign("neuron_experimental_compress_rg", "", "of neuronx-distributed's own groups alone"),
)

OPTIMUM = (
    Foreign("model_id", "model.weights", "the folder; the size is a preset, e.g. sizes/qwen3_8b"),
    Foreign("tensor_parallel_size", "parallel.tp"),
    Foreign("disable_sequence_parallel", "", "sequence parallelism comes with parallel.tp > 1"),
    Foreign("sequence_parallel_enabled", "", "always where parallel.tp > 1"),
    Foreign("kv_size_multiplier", "", "follows: tp / model.num_kv_heads copies"),
    Foreign("pipeline_parallel_size", "", _NO_PIPELINE),
    Foreign("pipeline_parallel_num_microbatches", "", _NO_PIPELINE),
    Foreign("pipeline_parallel_use_zero1_optimizer", "", _NO_PIPELINE),
    Foreign("zero_1", "", "always: ZeRO-1 over the data-parallel ranks"),
    Foreign("bf16", "train.compute_dtype"),
    Foreign("stochastic_rounding_enabled", "cluster.environment", _ROUNDING),
    Foreign("use_xser", "", _SAFETENSORS),
    Foreign("async_save", "checkpoint.background"),
    Foreign("checkpoint_dir", "run.directory", "checkpoints are in the run's folder"),
    Foreign("num_local_ranks_per_step", "", _OWN_SLICES),
    Foreign("per_device_train_batch_size", "train.micro_batch_size"),
    Foreign(
        "gradient_accumulation_steps",
        "train.global_batch_size",
        "rows of a step; the rest follows",
    ),
    Foreign("gradient_checkpointing", "train.recompute"),
    Foreign("recompute_causal_mask", "", "a mask follows from data.document_mask"),
    Foreign("learning_rate", "optim.lr"),
    Foreign("lr_scheduler_type", "optim.schedule"),
    Foreign("warmup_ratio", "optim.warmup_steps", "in steps"),
    Foreign("adam_beta1", "optim.betas"),
    Foreign("adam_beta2", "optim.betas"),
    Foreign("adam_epsilon", "optim.eps"),
    Foreign("max_grad_norm", "optim.clip_norm"),
    Foreign("num_train_epochs", "train.steps", "steps; epochs follow one another"),
    Foreign("max_length", "data.sequence_length"),
    Foreign("packing", "", "always"),
    Foreign("attn_implementation", "ops.attention"),
    Foreign("logging_steps", "observe.log_every"),
    Foreign("report_to", "observe.trackers"),
    Foreign("output_dir", "run.directory"),
    Foreign("overwrite_output_dir", "checkpoint.resume", "never begins anew"),
    Foreign("save_steps", "checkpoint.every_steps"),
    Foreign("save_total_limit", "checkpoint.keep_last"),
    Foreign("do_train", "", "`ndtrain train`, `ndtrain eval`"),
    Foreign("resume_from_checkpoint", "checkpoint.resume"),
)

# Words of many programs: they say nothing without the section before them.
_SAYS_NOTHING = ("type", "name", "mode", "monitor", "filename", "softmax")


def foreign(key: str, is_own_section: bool = False) -> Foreign | None:
    """By the whole key or a section that it is in, else by its last part where ours has another
    name; None if theirs has none.

    is_own_section: the key begins with a section of ours, so that its end alone says nothing.
    """
    rows = {row.theirs: row for row in (*OPTIMUM, *NXDT)}
    parts = key.split(".")
    above = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    exact = next((rows[name] for name in above if name in rows), None)
    last = parts[-1].replace("-", "_")
    if exact is not None or is_own_section or last in _SAYS_NOTHING:
        return exact
    return next((row for row in rows.values() if _end(row.theirs) == last != _end(row.ours)), None)


def _end(key: str) -> str:
    return key.rpartition(".")[2]
