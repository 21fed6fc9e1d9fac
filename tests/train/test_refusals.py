"""What a start, a resume, an evaluation or a sample refuses because of the files that it finds."""

from dataclasses import replace
from pathlib import Path

import pytest

from ndtrain.checkpoint.format import Manifest
from ndtrain.checkpoint.writer import begin, publish, write_rank, write_training
from ndtrain.config.load import load
from ndtrain.core.errors import Unhealthy, UserError
from ndtrain.data.text_files import TextSource
from ndtrain.data.train_tokenizer import train_tokenizer
from ndtrain.observe.run_directory import RunDirectory
from ndtrain.runtime.runtime import start_cpu
from ndtrain.train.build import _refuse_another_shape
from ndtrain.train.evaluate_checkpoint import evaluate_checkpoint
from ndtrain.train.overlap_plan import _stored
from ndtrain.train.prior_state import open_prior
from ndtrain.train.resume import _newest, _opened, lock_run
from ndtrain.train.sample import sample
from ndtrain.train.training_state import TrainingState

pytest.importorskip("transformers", reason="the folders of weights are made with it")
from tests.checkpoint.folders import SHAPE, random_parameters, write_checkpoint

STATE = TrainingState(
    step=7, num_updates=7, data={"epoch": 0, "row": 0}, data_fingerprint="", losses=[], config={}
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "weights", SHAPE, random_parameters(SHAPE), 1)
    return tmp_path / "weights"


def add_tokenizer(weights: Path) -> None:
    text = weights.parent / "text.txt"
    text.write_text("one two three\n" * 20)
    (weights / "tokenizer").mkdir()
    train_tokenizer(TextSource([str(text)], None), 300, weights / "tokenizer")


def test_weights_without_a_tokenizer_say_nothing(weights: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer beside the weights"):
        sample(str(weights), "one", 1, 1.0, 1.0, 0)
    with pytest.raises(UserError, match="no tokenizer beside the weights"):
        evaluate_checkpoint(weights, load("quickstart", []).config, None, print)


def test_an_empty_prompt_cannot_be_continued(weights: Path) -> None:
    add_tokenizer(weights)
    with pytest.raises(UserError, match="the prompt has no token"):
        sample(str(weights), "", 1, 1.0, 1.0, 0)


def test_weights_of_another_shape_say_how_they_differ(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="they have hidden_size of their own") as caught:
        _refuse_another_shape(SHAPE, replace(SHAPE, hidden_size=32, max_positions=7), tmp_path)
    assert caught.value.help == "set model.hidden_size=32"


def test_moments_that_are_not_there_cannot_be_begun_with(weights: Path) -> None:
    for given in (None, str(weights)):
        with pytest.raises(UserError, match="no moments to begin with") as caught:
            open_prior(given)
        assert caught.value.where == f"optim.restore=true, model.weights={given or 'null'}"


@pytest.mark.parametrize("text", ["[", "[]", "{}"])
def test_a_damaged_plan_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(UserError, match="not a plan"):
        _stored(file, {}, replan=False)
    assert _stored(file, {}, replan=True) is None


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    with lock_run(tmp_path / "run"), pytest.raises(UserError, match="is training already"):
        lock_run(tmp_path / "run")
    lock_run(tmp_path / "run").close()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.checkpoints.mkdir(parents=True)
    folder = directory.checkpoints / "step_00000007"
    write_checkpoint(folder, SHAPE, random_parameters(SHAPE), 1)  # and no training state
    with pytest.raises(Unhealthy, match=f"none of the checkpoints is sound: .*{folder}"):
        _newest(directory, start_cpu(1, 1, 1))


def test_a_checkpoint_under_the_name_of_another_step_is_refused(tmp_path: Path) -> None:
    partial = begin(tmp_path / "step_00000007")
    parameters = random_parameters(SHAPE).items()
    files = write_rank(partial, 0, [(n, 0, [(0, x.shape[0])], x) for n, x in parameters])
    files.append(write_training(partial, STATE.to_json()))
    publish(partial, tmp_path / "step_00000007", Manifest(SHAPE, "float32", tuple(files), 7))
    assert _opened(tmp_path / "step_00000007", start_cpu(1, 1, 1)).step == 7
    (tmp_path / "step_00000007").rename(tmp_path / "step_00000009")
    with pytest.raises(UserError, match="it holds step 7, which its name does not say"):
        _opened(tmp_path / "step_00000009", start_cpu(1, 1, 1))


def test_the_state_of_another_version_is_refused() -> None:
    with pytest.raises(UserError, match="the training state is not usable"):
        TrainingState.from_json({"flux": 1})
