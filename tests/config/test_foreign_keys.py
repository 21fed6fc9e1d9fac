"""Keys of NxD Training and optimum-neuron: each is answered, by a key of ours that exists."""

import re
from pathlib import Path

import pytest

from ndtrain.config import keys
from ndtrain.config.foreign_keys import NXDT, OPTIMUM, Foreign, foreign
from ndtrain.config.load import load
from ndtrain.core.errors import UserErrors

# Of the shape of NxD Training's examples. Two of its keys have the same name here.
THEIRS = """
name: hf_llama3_8B
model_source: hf
seed: 1234
trainer:
  devices: 32
  max_epochs: -1
  sequential_move_factor: 11
exp_manager:
  create_tensorboard_logger: true
  name: llama3
  checkpoint_callback_params:
    monitor: step
    every_n_train_steps: 200
distributed_strategy:
  tensor_model_parallel_size: 32
  virtual_pipeline_model_parallel_size: 1
data:
  seq_length: 8192
  tokenizer:
    type: /fsx/tokenizer
model:
  num_layers: 32
  hidden_size: 4096
  optim:
    name: adamw_fp32OptState
    lr: 1e-4
    sched:
      name: LinearAnnealingWithWarmUp
      warmup_steps: 100
  fusions:
    softmax: true
    flash_attention: true
precision:
  type: mixed_precision
  parallel_layers_reduce_dtype: fp32
neuron_experimental_compress_rg: false
"""
README = Path(__file__).parents[2] / "launch" / "README.md"
ROWS = (*NXDT, *OPTIMUM)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.theirs)
def test_each_is_answered(row: Foreign) -> None:
    assert row.ours or row.note
    assert not row.ours or keys.field(row.ours) is not None
    assert keys.field(row.theirs) is None
    _, help_text = keys.unknown_key(row.theirs)
    assert not row.ours or f"`{row.ours}`" in help_text
    assert row.note in help_text


def test_the_section_may_be_left_out() -> None:
    _, help_text = keys.unknown_key("tensor_model_parallel_size")
    assert "did you mean `parallel.tp`?" in help_text
    _, help_text = keys.unknown_key("zero1")
    assert "always: ZeRO-1" in help_text


def test_a_whole_file_of_theirs_is_answered_line_by_line(tmp_path: Path) -> None:
    """Nested as they nest it, some of it below sections that have our names."""
    file = tmp_path / "hf_llama3_8B_config.yaml"
    file.write_text(THEIRS, "utf-8")
    with pytest.raises(UserErrors) as caught:
        load(str(file), [])
    assert len(caught.value.errors) == len(re.findall(r"^ *\w+: \S+$", THEIRS, re.MULTILINE)) - 2
    for error in caught.value.errors:
        assert "the sections are" not in error.help, error
        assert "` has " not in error.help, error


def test_what_stands_below_a_section_of_theirs_is_answered_with_it() -> None:
    _, help_text = keys.unknown_key("model_alignment_strategy.dpo.kl_beta")
    assert "there is no DPO" in help_text


def test_words_of_many_programs_say_nothing_alone() -> None:
    assert foreign("trial.monitor") is None
    assert foreign("exp_manager.checkpoint_callback_params.monitor") is not None


def test_in_a_section_of_ours_only_whole_keys_count() -> None:
    assert foreign("optim.type") is None
    assert foreign("optim.zero1", is_own_section=True) is None
    assert foreign("data.val_dir", is_own_section=True) is not None


def test_the_readme_has_the_table_of_the_code() -> None:
    text = README.read_text("utf-8")
    shown = re.findall(r"^\| `([^`]+)` \| (.*) \|$", text, re.MULTILINE)
    listed = [
        (row.theirs, "; ".join(filter(None, (row.ours and f"`{row.ours}`", row.note))))
        for row in ROWS
    ]
    assert [line for line in shown if line in listed] == listed
