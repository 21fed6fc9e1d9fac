"""Checks across sections that need no model and no hardware, and what `auto` becomes.

    check(config, world_size=8, origins=loaded.origins)   # raises everything that is wrong at once
    config = resolve(config, world_size=8)                # parallel.dp: auto -> 4

A check is a function from config and world size to the problems it finds; each problem names the
keys it weighed and lists the legal values.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ndtrain.config.load import DEFAULT, fail
from ndtrain.config.overlapping import forms
from ndtrain.config.schema import Config
from ndtrain.core.errors import UserError


@dataclass(frozen=True)
class Problem:
    what: str
    keys: tuple[str, ...]
    """The keys involved, the one to change first."""
    help: str


Check = Callable[[Config, int | None], Iterable[Problem]]


def check(config: Config, world_size: int | None, origins: Mapping[str, str] | None = None) -> None:
    """Raise UserError or UserErrors unless the sections agree with each other.

    world_size: number of ranks; None where it is not known yet, which leaves out what needs it.
    origins: `Loaded.origins`, so that messages say where each value came from.
    """
    problems = [problem for find in CHECKS for problem in find(config, world_size)]
    errors = [as_error(problem, origins or {}) for problem in problems]
    if errors:
        fail(errors)


def data_parallel(config: Config, world_size: int | None) -> int | None:
    """Data-parallel ranks, None where `auto` and no world size is known."""
    if config.parallel.dp != "auto":
        return config.parallel.dp
    return None if world_size is None else max(1, world_size // config.parallel.tp)


def world_size(config: Config) -> int:
    """The ranks a configuration asks for; `dp: auto` counts as one replica."""
    return config.parallel.tp * (data_parallel(config, None) or 1)


def resolve(config: Config, world_size: int) -> Config:
    """The configuration with `parallel.dp: auto` replaced by world_size / tp.

    Raises UserError when the ranks do not make a whole tp x dp grid.
    """
    problems = list(_grid(config, world_size))
    if problems:
        fail([as_error(problem, {}) for problem in problems])
    parallel = config.parallel.model_copy(update={"dp": data_parallel(config, world_size)})
    return config.model_copy(update={"parallel": parallel})


def as_error(problem: Problem, origins: Mapping[str, str]) -> UserError:
    places = [f"{key} {_from(origins[key])}" for key in problem.keys if key in origins]
    return UserError(problem.what, ", ".join(places), problem.help)


def _from(origin: str) -> str:
    return "by default" if origin == DEFAULT else f"from {origin}"


def divisors(number: int) -> list[int]:
    small = [i for i in range(1, int(number**0.5) + 1) if number % i == 0]
    return sorted({*small, *(number // i for i in small)})


def _values(numbers: Iterable[int]) -> str:
    """Legal values for a message; powers of two first when there are too many to read."""
    listed = list(numbers)
    if len(listed) > 16:
        listed = [n for n in listed if n & (n - 1) == 0]
    return ", ".join(map(str, listed))


def legal_tp(config: Config) -> list[int]:
    """Every tp that the model and the sequence length allow."""
    return [tp for tp in divisors(config.model.num_heads) if not list(_tp_problems(config, tp))]


def _tp_problems(config: Config, tp: int) -> Iterator[tuple[str, int]]:
    """The sizes that `tp` does not fit, as (key, size)."""
    model = config.model
    whole = {
        "model.num_heads": model.num_heads,
        "model.intermediate_size": model.intermediate_size,
        "model.vocab_size": model.vocab_size,
        "data.sequence_length": config.data.sequence_length,
    }
    yield from ((key, size) for key, size in whole.items() if size % tp)
    # Fewer KV heads than ranks: each is kept on tp / num_kv_heads ranks.
    if model.num_kv_heads % tp and tp % model.num_kv_heads:
        yield "model.num_kv_heads", model.num_kv_heads


def _tensor_parallel(config: Config, world_size: int | None) -> Iterator[Problem]:
    tp = config.parallel.tp
    for key, size in _tp_problems(config, tp):
        relation = "neither divides nor is a multiple of" if "kv" in key else "does not divide"
        what = f"parallel.tp={tp} {relation} {key}={size}"
        legal = f"legal tp for this model and sequence length: {_values(legal_tp(config))}"
        yield Problem(what, ("parallel.tp", key), legal)


def _heads(config: Config, world_size: int | None) -> Iterator[Problem]:
    model = config.model
    if model.num_heads % model.num_kv_heads:
        what = (
            f"model.num_kv_heads={model.num_kv_heads} does not divide num_heads={model.num_heads}"
        )
        legal = f"legal num_kv_heads: {_values(divisors(model.num_heads))}"
        yield Problem(what, ("model.num_kv_heads", "model.num_heads"), legal)
    if model.head_dim % 2:
        near = f"{model.head_dim - 1} or {model.head_dim + 1}" if model.head_dim > 1 else "2"
        what = f"model.head_dim={model.head_dim} is odd, and RoPE turns pairs"
        yield Problem(what, ("model.head_dim",), f"the nearest legal values: {near}")
    if config.data.sequence_length > model.max_positions:
        what = (
            f"data.sequence_length={config.data.sequence_length} exceeds "
            f"model.max_positions={model.max_positions}"
        )
        keys = ("data.sequence_length", "model.max_positions")
        yield Problem(what, keys, f"legal sequence_length: at most {model.max_positions}")


def _grid(config: Config, world_size: int | None) -> Iterator[Problem]:
    if world_size is None:
        return
    tp, dp = config.parallel.tp, config.parallel.dp
    if world_size % tp:
        what = f"parallel.tp={tp} does not divide the world size {world_size}"
        legal = f"legal tp for {world_size} ranks: {_values(divisors(world_size))}"
        yield Problem(what, ("parallel.tp",), legal)
    elif dp != "auto" and tp * dp != world_size:
        what = f"parallel.tp={tp} x parallel.dp={dp} is not the world size {world_size}"
        legal = f"set parallel.dp={world_size // tp} or auto, or start {tp * dp} ranks"
        yield Problem(what, ("parallel.dp", "parallel.tp"), legal)


def _batch(config: Config, world_size: int | None) -> Iterator[Problem]:
    dp, train = data_parallel(config, world_size), config.train
    rows, micro = train.global_batch_size, train.micro_batch_size
    unit = micro * (dp or 1)
    if rows % unit == 0:
        return
    shown = f"micro_batch_size={micro}" + (f" x dp={dp}" if dp else "")
    what = f"train.global_batch_size={rows} is not a multiple of {shown}"
    below, above = rows - rows % unit, rows - rows % unit + unit
    legal = f"the nearest legal values: {below}, {above}" if below else f"at least {above}"
    micros = [m for m in divisors(rows) if rows % (m * (dp or 1)) == 0]
    legal += f"; or micro_batch_size: {_values(micros)}" if micros else ""
    yield Problem(what, ("train.global_batch_size", "train.micro_batch_size", "parallel.dp"), legal)


def _schedule(config: Config, world_size: int | None) -> Iterator[Problem]:
    optim, steps = config.optim, config.train.steps
    decay = optim.decay_steps if optim.schedule == "wsd" else 0
    if optim.warmup_steps + decay > steps:
        what = f"optim.warmup_steps={optim.warmup_steps}"
        what += f" + optim.decay_steps={decay}" if decay else ""
        keys = ("optim.warmup_steps", *(["optim.decay_steps"] if decay else []), "train.steps")
        yield Problem(f"{what} exceeds train.steps={steps}", keys, f"at most {steps} together")
    if optim.schedule != "wsd" and optim.decay_steps:
        what = f"optim.decay_steps={optim.decay_steps} has no meaning for schedule={optim.schedule}"
        legal = "set optim.decay_steps=0 or optim.schedule=wsd"
        yield Problem(what, ("optim.decay_steps", "optim.schedule"), legal)
    if optim.schedule == "wsd" and not optim.decay_steps:
        legal = f"set optim.decay_steps to 1 up to {max(1, steps - optim.warmup_steps)}"
        keys = ("optim.decay_steps", "optim.schedule")
        yield Problem("optim.schedule=wsd without decay_steps", keys, legal)


def _data(config: Config, world_size: int | None) -> Iterator[Problem]:
    data = config.data
    if data.source != "stdlib" and not data.paths:
        what = f"data.source={data.source} needs data.paths"
        yield Problem(what, ("data.source", "data.paths"), "e.g. data.paths='[corpus/**/*.txt]'")
    if data.source == "stdlib" and data.paths:
        what = "data.paths is given, but data.source=stdlib does not read it"
        legal = "set data.source to text or jsonl, or data.paths=[]"
        yield Problem(what, ("data.paths", "data.source"), legal)
    if data.tokenizer == "train" and config.model.vocab_size < 257:
        what = f"model.vocab_size={config.model.vocab_size} is too small to train a tokenizer"
        legal = "at least 257: the 256 bytes and the end of a document"
        yield Problem(what, ("model.vocab_size", "data.tokenizer"), legal)
    if config.train.eval_every and not data.held_out_fraction:
        what = f"train.eval_every={config.train.eval_every} with data.held_out_fraction=0"
        legal = "set train.eval_every=0, or hold out a fraction above 0 and below 1"
        yield Problem(what, ("train.eval_every", "data.held_out_fraction"), legal)


def _trace(config: Config, world_size: int | None) -> Iterator[Problem]:
    if config.observe.trace_steps is None:
        return
    first, last = config.observe.trace_steps
    if first > last or last > config.train.steps:
        what = f"observe.trace_steps=[{first}, {last}] is not a range of steps"
        legal = f"two steps in order, at most train.steps={config.train.steps}, e.g. [1, 2]"
        yield Problem(what, ("observe.trace_steps", "train.steps"), legal)


_TRACED_FORMS = "auto, off, bulk, chunk, ring, ring2"


def _traced(config: Config, world_size: int | None) -> Iterator[Problem]:
    """What a traced step cannot do: only the device's compiler knows what runs when."""
    if config.runtime.device != "xla":
        return
    for key, form in {
        **forms(config),
        "overlap.data_parallel": config.overlap.data_parallel,
    }.items():
        if form == "serial":
            what = f"{key}=serial on xla: its compiler decides what runs at the same time"
            legal = "auto, on, off" if key == "overlap.data_parallel" else _TRACED_FORMS
            yield Problem(what, (key, "runtime.device"), f"legal on xla: {legal}")
    if config.train.offload_activations:
        what = "train.offload_activations on xla: a traced step has no stream for the copies"
        yield Problem(what, ("train.offload_activations", "runtime.device"), "set it to false")


def _compiled(config: Config, world_size: int | None) -> Iterator[Problem]:
    runtime, attention = config.runtime, config.ops.attention
    if not runtime.compile:
        return
    if runtime.device == "xla":
        what = "runtime.compile on xla: the whole step is one compiled graph there already"
        yield Problem(what, ("runtime.compile", "runtime.device"), "set it to false")
    if runtime.device == "neuron" and attention == "nkilib":
        what = "ops.attention=nkilib in a compiled graph on neuron: only ndtrain's own kernels are"
        keys = ("ops.attention", "runtime.compile")
        yield Problem(f"{what} ops that its compiler knows", keys, "legal: auto, nki, reference")


def _device_times(config: Config, world_size: int | None) -> Iterator[Problem]:
    device = config.runtime.device
    if device != "cpu" and config.observe.trace_steps is not None:
        what = f"observe.trace_steps on {device}: times of the host say nothing about the device"
        keys = ("observe.trace_steps", "runtime.device")
        yield Problem(what, keys, "set it to null and use the device's profiler")


def _no_ring(config: Config, world_size: int | None) -> Iterator[Problem]:
    """Native PyTorch on Neuron has no send and receive (torch-neuronx 2.13 and 2.14)."""
    if config.runtime.device != "neuron":
        return
    for key, form in forms(config).items():
        if form in ("ring", "ring2"):
            what = f"{key}={form} on neuron: its ranks cannot send to a neighbour"
            legal = "legal on neuron: auto, serial, off, bulk, chunk; chunk is what overlaps most"
            yield Problem(what, (key, "runtime.device"), legal)


CHECKS: tuple[Check, ...] = (
    _heads,
    _tensor_parallel,
    _grid,
    _batch,
    _schedule,
    _data,
    _trace,
    _traced,
    _compiled,
    _device_times,
    _no_ring,
)
