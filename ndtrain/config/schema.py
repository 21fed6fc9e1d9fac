"""The configuration: one frozen, typed section per part of the program.

Each field says what it is, in which unit. Unknown keys are errors (`load.py`). Checks that need
only one section live here as validators; checks across sections are in `checks.py`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


DecayRate = Annotated[float, Field(ge=0, lt=1)]
StepNumber = Annotated[int, Field(ge=0)]


class Run(Section):
    """The run itself: its name, its folder, its seed."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; its files go to `directory/name`."""
    directory: str = "runs"
    """Folder that holds the run directories, relative to where the command starts."""
    seed: int = Field(0, ge=0)
    """Seed of the initial weights and of the data order. Neither depends on the layout."""


class Model(Section):
    """The shape of a Qwen3 (or Llama) decoder. `sizes/` has the published ones."""

    vocab_size: PositiveInt = 4096
    """Rows of the embedding. At least the tokenizer's size."""
    hidden_size: PositiveInt = 256
    """Width of the residual stream."""
    intermediate_size: PositiveInt = 768
    """Width of the SwiGLU between gate|up and down."""
    num_layers: PositiveInt = 4
    """Number of transformer blocks."""
    num_heads: PositiveInt = 8
    """Number of query heads."""
    num_kv_heads: PositiveInt = 4
    """Number of key and value heads; divides num_heads."""
    head_dim: PositiveInt = 32
    """Width of one head; even. Independent of hidden_size in Qwen3."""
    rope_theta: float = Field(1e6, gt=0)
    """Base of the rotary frequencies."""
    rms_norm_eps: float = Field(1e-6, gt=0)
    """Added to the mean square before its root."""
    tie_embeddings: bool = True
    """One matrix serves as embedding and as output head."""
    qk_norm: bool = True
    """RMSNorm of each query and key head before RoPE: true for Qwen3, false for Llama."""
    max_positions: PositiveInt = 40960
    """Longest sequence the model is meant for; written to exported models."""
    initial_std: float = Field(0.02, gt=0)
    """Standard deviation of the initial weights."""
    weights: str | None = None
    """Folder to start from: a Hugging Face model or an ndtrain checkpoint. null: random weights."""


class Data(Section):
    """Where tokens come from and how they are packed into rows."""

    source: Literal["stdlib", "text", "jsonl"] = "stdlib"
    """stdlib: Python's standard library; text: plain files; jsonl: `text` or `messages` records."""
    paths: list[str] = []
    """Glob patterns of the files, for `text` and `jsonl`; `**` crosses folders."""
    max_megabytes: float | None = Field(5.0, gt=0)
    """Read at most this much text (1 MB = 10^6 bytes). null: all."""
    tokenizer: str = "train"
    """`train`: a byte-level BPE of model.vocab_size, from the data; else a Hugging Face folder."""
    sequence_length: PositiveInt = 512
    """Tokens in a row of a batch."""
    document_mask: bool = True
    """Tokens attend only inside their own document, and positions restart with it."""
    train_on: Literal["assistant", "all"] = "assistant"
    """Which tokens of a chat the loss counts."""
    held_out_fraction: float = Field(0.02, ge=0, lt=1)
    """Share of the documents kept for evaluation, chosen by the hash of their text."""
    shuffle: bool = True
    """New order of the documents in each epoch, from run.seed."""
    cache_directory: str | None = None
    """Where trained tokenizers and encoded text are kept. null: `$XDG_CACHE_HOME/ndtrain`."""
    max_bad_records: int = Field(0, ge=0)
    """Unreadable jsonl records that are reported and left out before the run is refused."""


class Parallel(Section):
    """How the ranks divide the work. tp x dp = the world size."""

    tp: PositiveInt = 1
    """Tensor-parallel ranks; above 1 the residual stream is sharded along the sequence too."""
    dp: PositiveInt | Literal["auto"] = "auto"
    """Data-parallel ranks (ZeRO-1). auto: the world size divided by tp."""


class Optim(Section):
    """AdamW and its learning rate."""

    lr: float = Field(3e-4, gt=0)
    """Peak learning rate."""
    betas: tuple[DecayRate, DecayRate] = Field((0.9, 0.95), strict=False)
    """AdamW's decay rates of the first and second moment, each in [0, 1)."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's denominator term."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay of the matrices; norms have none."""
    clip_norm: float | None = Field(1.0, gt=0)
    """Largest global L2 norm of the gradient. null: not clipped (still reported)."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """cosine: to final_lr_ratio; wsd: warm up, stay, decay linearly over decay_steps; constant."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of linear warm-up from 0."""
    decay_steps: int = Field(0, ge=0)
    """Last steps in which `wsd` decays."""
    final_lr_ratio: float = Field(0.1, ge=0, le=1)
    """Learning rate at the end, as a share of `lr`."""
    restore: bool = False
    """Begin with the moments and master weights that are in model.weights too."""


class Train(Section):
    """How long, how much at a time, in which precision."""

    steps: PositiveInt = 200
    """Optimizer steps."""
    global_batch_size: PositiveInt = 8
    """Rows (sequences) in one optimizer step, over all ranks."""
    micro_batch_size: PositiveInt = 4
    """Rows that one data-parallel rank computes at a time; the rest is accumulated."""
    compute_dtype: Literal["fp32", "bf16"] = "fp32"
    """Weights and activations of forward and backward; master weights are always fp32."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activation checkpointing: none; selective: attention core and SwiGLU, whose results are not
    kept; full: whole blocks."""
    offload_activations: bool = False
    """What blocks keep for backward waits on the host and comes back one layer ahead. On a CPU,
    where host and device are one memory, it saves nothing."""
    eval_every: int = Field(100, ge=0)
    """Steps between evaluations on held-out rows, besides step 0 and the last; 0: never."""
    eval_rows: PositiveInt = 32
    """Held-out rows of one evaluation, over all ranks."""
    max_minutes: float | None = Field(None, gt=0)
    """Save and stop after so many minutes, to be started again. null: no limit."""


OperationMode = Literal["auto", "off", "serial", "bulk", "chunk", "ring", "ring2"]


class Overlap(Section):
    """How communication hides behind compute. It changes time, never numbers beyond rounding."""

    mode: OperationMode = "auto"
    """auto: what is predicted to be fastest, for each operation; serial: the plan of auto, one node
    at a time, whatever operations have of their own; off: blocking collectives; bulk, chunk, ring,
    ring2: this form everywhere."""
    qkv: OperationMode | None = None
    """Form of the q|k|v projection; serial: of it alone. null: as `mode`; likewise below."""
    o: OperationMode | None = None
    """Form of the attention's output projection."""
    gate_up: OperationMode | None = None
    """Form of the gate|up projection."""
    down: OperationMode | None = None
    """Form of the down projection."""
    head: OperationMode | None = None
    """Form of the output head; its rings are `chunk`: all ranks need the same tokens at a time."""
    replan: bool = False
    """Decide again although the run directory holds a plan; numbers may then round differently."""
    max_extra_megabytes: float | None = Field(None, ge=0)
    """Memory that an operation's form may hold above the blocking one (1 MB = 10^6 bytes); forms
    that hold more are not chosen. null: no limit."""
    data_parallel: Literal["auto", "on", "off", "serial"] = "auto"
    """Gradients are reduced during backward and weights gathered during the next forward. auto: as
    `mode`, off and serial; on with every other."""
    bucket_megabytes: float = Field(16.0, gt=0)
    """Gradients that travel together (fp32; 1 MB = 10^6 bytes), when data_parallel is on."""


class Runtime(Section):
    """The device that computes."""

    device: Literal["cpu", "xla", "neuron"] = "cpu"
    """cpu: gloo between the ranks; xla: torch-xla, every step one traced graph, on trn1 or, where
    there is none, on torch-xla's CPU device; neuron: native PyTorch, eager, trn2 and later."""
    compile: bool = False
    """torch.compile of what lies between collectives: norms, attention core, SwiGLU; on cpu by
    inductor, which needs a C++ compiler, on neuron by Neuron's. In training and its evaluations."""


class Ops(Section):
    """Which implementation computes an operation."""

    attention: Literal["auto", "reference", "sdpa", "nki", "nki-sim", "nkilib", "nxd"] = "auto"
    """Implementation of attention. auto: sdpa on a CPU; nki on Neuron where it is installed, else
    reference. nki: the NKI kernels; nki-sim: the same in the simulator of the NeuronCore, for small
    models; nkilib: AWS's (on a CPU: in the simulator); nxd: neuronx-distributed's, on trn1."""


class Checkpoint(Section):
    """When the state is saved, how much of it is kept, and where a run goes on."""

    every_steps: int = Field(0, ge=0)
    """Steps between checkpoints; 0: only at the end and when the run is stopped."""
    keep_last: PositiveInt = 2
    """Complete checkpoints to keep; older ones are deleted once a newer one is proved sound."""
    resume: str = "auto"
    """auto: the run directory's newest sound checkpoint; never; or the path of a checkpoint."""
    background: bool = True
    """Write files while the next steps run, from a copy in memory; false: wait for the disk."""
    max_failures: PositiveInt = 3
    """Failed saves in a row (disk full, I/O errors) that end the run."""


class Guards(Section):
    """What is watched while the run trains, and what happens when it goes wrong."""

    nonfinite: str = Field("abort", pattern=r"^(abort|skip:[1-9][0-9]*)$")
    """NaN or infinity in loss or gradient: abort; skip:K: leave out up to K steps in a row."""
    spike_score: float | None = Field(8.0, gt=0)
    """Warn when the loss is so many robust deviations above its recent median. null: never."""
    spike_abort: int = Field(0, ge=0)
    """Spikes in a row that end the run; 0: only warn."""
    setup_seconds: float = Field(3600.0, gt=0)
    """Without progress for so long before the first step ends, the run is taken for hung."""
    step_seconds: float = Field(600.0, gt=0)
    """The same for a later step or a batch of an evaluation."""
    save_seconds: float = Field(1800.0, gt=0)
    """The same for a save."""


class Observe(Section):
    """What is shown and recorded."""

    log_every: PositiveInt = 1
    """Steps between lines on the terminal; `metrics.jsonl` has every step."""
    trace_steps: tuple[StepNumber, StepNumber] | None = Field(None, strict=False)
    """First and last step whose spans are written to `trace/`, e.g. [10, 12]. null: none."""
    progress: Literal["auto", "bar", "lines", "off"] = "auto"
    """auto: a bar beside the lines on a terminal, lines alone elsewhere."""
    trackers: list[Literal["tensorboard", "wandb"]] = []
    """Where the metrics go besides `metrics.jsonl`; `pip install 'ndtrain[trackers]'` has both."""
    project: str = Field("ndtrain", min_length=1)
    """Project of the run in W&B."""


class Cluster(Section):
    """The environment of a job that `ndtrain slurm` starts on several nodes."""

    environment: list[str] = []
    """Variables of the ranks, each NAME=VALUE, over what is derived from config and hardware (see
    `ndtrain slurm --print-env`); NAME= leaves one out."""
    compile_cache: str | None = None
    """Folder that all nodes share: a node's cache of compiled graphs, which is on its own disk, is
    filled from it before the ranks compile and copied back to it. null: each node for itself."""


class Config(Section):
    """All of it. Frozen: what was decided for a run does not change under it."""

    run: Run = Run()
    model: Model = Model()
    data: Data = Data()
    parallel: Parallel = Parallel()
    optim: Optim = Optim()
    train: Train = Train()
    runtime: Runtime = Runtime()
    ops: Ops = Ops()
    overlap: Overlap = Overlap()
    checkpoint: Checkpoint = Checkpoint()
    guards: Guards = Guards()
    observe: Observe = Observe()
    cluster: Cluster = Cluster()
