"""The composition root: a resolved configuration and a runtime become the objects of a run.

    training = build(config, runtime, log)

Nothing below reads the configuration as a whole: each object is handed its own section.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ndtrain.checkpoint.source import open_source
from ndtrain.config import schema
from ndtrain.config.overlapping import data_form
from ndtrain.core.errors import UserError
from ndtrain.data.dataset import Dataset
from ndtrain.data.loader import HeldOutRows, Loader
from ndtrain.data.prepare import open_prepared, prepare
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.models.qwen3.shape import Shape
from ndtrain.ops import nki_op
from ndtrain.ops.attention_choice import Problem, choose
from ndtrain.overlap.gate import Decision
from ndtrain.parallel.apply import Source, parallelize
from ndtrain.parallel.compile import compile_local_modules
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.parallel.offload import offload_activations
from ndtrain.parallel.recompute import recompute
from ndtrain.parallel.shard import Shard
from ndtrain.parallel.spans import record_local_modules
from ndtrain.parallel.zero import ShardedAdamW
from ndtrain.parallel.zero_traced import TracedAdamW
from ndtrain.runtime.compiler import require_compiler
from ndtrain.runtime.dtypes import DTYPES
from ndtrain.runtime.runtime import Runtime
from ndtrain.train.agree import together
from ndtrain.train.hardware import Hardware, find_hardware
from ndtrain.train.optimizer_state import MasterWeights, load_moments
from ndtrain.train.overlap_plan import Machine, measure_machine, overlap_plan
from ndtrain.train.prior_state import Prior, open_prior
from ndtrain.train.resume import Start

Log = Callable[[str], None]

INITIAL_STATE = "the initial state"


@dataclass(frozen=True)
class Training:
    """Everything that the loop works with, on one rank."""

    config: schema.Config
    runtime: Runtime
    shape: Shape
    model: Qwen3
    shards: dict[str, Shard]
    optimizer: ShardedAdamW  # on a device that traces, TracedAdamW
    dataset: Dataset
    loader: Loader
    held_out: HeldOutRows | None
    machine: Machine | Hardware  # the latter where the host's rates are not the device's
    decision: Decision


def shape_of(model: schema.Model) -> Shape:
    return Shape(**model.model_dump(exclude={"weights"}))


def attention_problem(config: schema.Config, head_dim: int) -> Problem:
    return Problem(
        config.data.sequence_length,
        head_dim,
        DTYPES[config.train.compute_dtype],
        config.data.document_mask,
    )


def build(
    config: schema.Config, runtime: Runtime, is_node_leader: bool, log: Log, start: Start
) -> Training:
    """Collective over the world. Raises UserError, on all ranks, for what does not fit.

    is_node_leader: whether this rank prepares the data for its node.
    start: where the run goes on; its weights, moments and data position are restored.
    """
    dataset = _dataset(config, runtime, is_node_leader, log)
    loader = _loader(config, dataset)
    log(f"data: {loader.describe()}")
    shape = shape_of(config.model)
    prior = together(runtime, lambda: _prior(config, start), "prior_state")
    source = together(runtime, lambda: _source(config, shape, prior), "weights")
    together(runtime, lambda: _restore_position(loader, start), "data_position")
    implementation = choose(
        config.ops.attention, runtime.device, attention_problem(config, shape.head_dim)
    )
    log(f"model: {shape.num_parameters():,} parameters, attention by {implementation}")

    with torch.device("meta"):
        model = Qwen3(shape, implementation)
    machine = _machine(config, runtime)
    plan_file = Path(config.run.directory) / config.run.name / "plan.json"
    decision = overlap_plan(config, runtime, shape, machine, plan_file, log)
    shards = parallelize(model, runtime, decision.modes)
    with runtime.compiling(INITIAL_STATE, log):
        optimizer = _optimizer(config, runtime, model, shards, source, prior)
    _say_how_buckets_travel(runtime, optimizer, data_form(config), log)
    if prior:
        log(f"optimizer: goes on after {prior.num_updates} updates, from {prior.checkpoint.folder}")
    if runtime.trace is not None:
        runtime.trace.run(INITIAL_STATE, log)
    if config.runtime.compile:
        _compile(model, config.runtime.device, implementation, log)
    recompute(model, config.train.recompute, runtime.trace)
    if config.train.offload_activations:
        offload_activations(model, runtime)
    record_local_modules(model, runtime)
    held_out = _held_out(config, dataset) if config.train.eval_every else None
    return Training(
        config,
        runtime,
        shape,
        model,
        shards,
        optimizer,
        dataset,
        loader,
        held_out,
        machine,
        decision,
    )


def _optimizer(
    config: schema.Config,
    runtime: Runtime,
    model: Qwen3,
    shards: dict[str, Shard],
    source: Source,
    prior: Prior | None,
) -> ShardedAdamW:
    """With the weights of `source` and, where the run goes on, its moments."""
    form = data_form(config)
    optimizer = (ShardedAdamW if runtime.trace is None else TracedAdamW)(
        model,
        shards,
        source,
        runtime,
        config.optim,
        DTYPES[config.train.compute_dtype],
        bucket_bytes=round(config.overlap.bucket_megabytes * 1e6),
        in_background=form != "off",
        serial=form == "serial",
    )
    if prior:
        load_moments(optimizer, shards, prior.checkpoint.state, prior.num_updates)
    return optimizer


def _say_how_buckets_travel(runtime: Runtime, optimizer: ShardedAdamW, form: str, log: Log) -> None:
    if runtime.mesh.data.size == 1:
        return
    how = {
        "on": "behind backward, update and the next forward",
        "serial": "as behind backward, update and the next forward, one node at a time",
        "off": "blocking",
    }[form]
    log(f"overlap: {len(optimizer.buckets)} buckets of gradients and weights: {how}")


def _compile(model: Qwen3, device: str, implementation: str, log: Log) -> None:
    if implementation == "nki":
        nki_op.register()
    backend = require_compiler(device)
    compile_local_modules(model, backend)
    log(f"torch.compile: norms, attention core and SwiGLU, by {backend}, when each first runs")


def _machine(config: schema.Config, runtime: Runtime) -> Machine | Hardware:
    if runtime.has_times:
        return measure_machine(runtime, config.train.compute_dtype)
    return find_hardware(config.runtime.device, os.environ)


def _dataset(config: schema.Config, runtime: Runtime, is_node_leader: bool, log: Log) -> Dataset:
    """Each node's leader fills the cache, then everybody opens it."""
    vocab_size = config.model.vocab_size

    def lead() -> Dataset | None:
        return prepare(config.data, vocab_size, log) if is_node_leader else None

    dataset = together(runtime, lead, "prepare_data")
    return together(runtime, lambda: dataset or open_prepared(config.data, vocab_size), "open_data")


def _loader(config: schema.Config, dataset: Dataset) -> Loader:
    return Loader(
        dataset,
        config.data.sequence_length,
        config.train.global_batch_size,
        config.run.seed,
        document_mask=config.data.document_mask,
        shuffle=config.data.shuffle,
    )


def _held_out(config: schema.Config, dataset: Dataset) -> HeldOutRows:
    return HeldOutRows(
        dataset,
        config.data.sequence_length,
        max_rows=config.train.eval_rows,
        document_mask=config.data.document_mask,
    )


def _restore_position(loader: Loader, start: Start) -> None:
    if start.state is None:
        return
    if start.state.data_fingerprint != loader.fingerprint:
        raise UserError(
            "the data are not those of the checkpoint: another sequence would follow",
            "data",
            "restore the files, tokenizer, data.sequence_length, data.shuffle and run.seed; or"
            " begin a new run with model.weights set to the checkpoint",
        )
    loader.load_state(start.state.data)


def _prior(config: schema.Config, start: Start) -> Prior | None:
    """Whose optimizer's state the run begins with, if any's."""
    if start.checkpoint and start.state:
        return Prior(start.checkpoint, start.state.num_updates)
    return open_prior(config.model.weights) if config.optim.restore else None


def _source(config: schema.Config, shape: Shape, prior: Prior | None) -> Source:
    """Where the weights come from."""
    if prior is not None:
        _refuse_another_shape(shape, prior.checkpoint.shape, prior.checkpoint.folder)
        return MasterWeights(prior.checkpoint)
    if config.model.weights is None:
        return RandomWeights(shape, config.run.seed)
    folder = Path(config.model.weights).expanduser()
    source = open_source(folder)
    _refuse_another_shape(shape, source.shape, folder)
    return source


def _refuse_another_shape(ours: Shape, theirs: Shape, folder: Path) -> None:
    ignored = {"max_positions", "initial_std"}  # change no weight
    different = {
        field: getattr(theirs, field)
        for field in Shape.__dataclass_fields__
        if field not in ignored and getattr(ours, field) != getattr(theirs, field)
    }
    if different:
        values = " ".join(f"model.{field}={value}" for field, value in different.items())
        raise UserError(
            f"the weights are of another shape: they have {', '.join(different)} of their own",
            str(folder),
            f"set {values}",
        )
