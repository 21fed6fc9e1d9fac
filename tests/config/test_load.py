"""Loading: order, origins, and errors that name the key, its place and what was meant."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ndtrain.config.load import load
from ndtrain.config.schema import Config
from ndtrain.core.errors import UserError, UserErrors

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file to an empty current folder and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "my.yaml") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return name

    return write


def errors_of(config: str, *overrides: str) -> list[UserError]:
    with pytest.raises(UserError) as caught:
        load(config, overrides)
    return caught.value.errors if isinstance(caught.value, UserErrors) else [caught.value]


def error_of(config: str, *overrides: str) -> UserError:
    (error,) = errors_of(config, *overrides)
    return error


def test_later_layers_win_and_origins_say_which(write: Write) -> None:
    write("optim: {lr: 1, eps: 1e-7}\ntrain: {steps: 7}\n", "base.yaml")
    path = write("extends: [sizes/tiny, base.yaml]\n\noptim:\n  lr: 2\n  weight_decay: 0.5\n")
    loaded = load(path, ["optim.weight_decay=0.25", "--run.seed=3", "run.seed=4"])
    config = loaded.config
    assert (config.optim.lr, config.optim.eps, config.optim.weight_decay) == (2, 1e-7, 0.25)
    assert (config.run.seed, config.train.steps) == (4, 7)
    assert loaded.origins["optim.lr"] == "my.yaml:4"
    assert loaded.origins["optim.eps"] == "base.yaml:1"
    assert loaded.origins["optim.weight_decay"] == "the command line"
    assert loaded.origins["optim.clip_norm"] == "default"
    assert loaded.origins["model.num_heads"].startswith("configs/sizes/tiny.yaml:")
    assert loaded.source == path
    assert loaded.overrides == ("optim.weight_decay=0.25", "--run.seed=3", "run.seed=4")


def test_fragments_are_joined_by_plus(write: Write) -> None:
    write("run: {name: mine}\n")
    config = load("tiny+recipes/laptop+my.yaml").config
    assert (config.model.hidden_size, config.optim.warmup_steps, config.run.name) == (
        256,
        10,
        "mine",
    )


def test_a_file_whose_name_has_a_plus_is_one_file(write: Write) -> None:
    write("run: {name: plus}\n", "a+b.yaml")
    assert load("a+b.yaml").config.run.name == "plus"


def test_a_path_without_suffix_and_json_are_read(write: Write) -> None:
    write("run: {name: bare}\n", "bare")
    write('{"run": {"name": "braces"}}', "a.json")
    assert load("bare").config.run.name == "bare"
    assert load("a.json").config.run.name == "braces"


def test_extends_is_relative_to_the_file(write: Write) -> None:
    write("train: {steps: 5}\n", "folder/base.yaml")
    write("extends: base.yaml\n", "folder/top.yaml")
    assert load("folder/top.yaml").config.train.steps == 5


def test_override_values_may_have_spaces_equals_signs_and_letters_of_any_script() -> None:
    config = load(
        "quickstart", ["data.paths=['a b/*=c.txt', \"Gr\u00f6\u00dfe\"]", "data.source=text"]
    ).config
    assert config.data.paths == ["a b/*=c.txt", "Gr\u00f6\u00dfe"]


def test_an_override_may_be_a_mapping_or_null() -> None:
    config = load("quickstart", ["optim={lr: 1e-5, eps: 1e-6}", "optim.clip_norm=null"]).config
    assert (config.optim.lr, config.optim.eps, config.optim.clip_norm) == (1e-5, 1e-6, None)


def test_a_section_whose_keys_are_commented_out_is_empty(write: Write) -> None:
    assert load(write("optim:\n  # lr: 3\n")).config == Config()


def test_the_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load("quickstart").config.optim.lr = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "help_text"),
    [
        ("lr", "`lr` belongs to another section: write `optim.lr`"),
        ("train.lr", "`lr` belongs to another section: write `optim.lr`"),
        ("optim.learning_rate", "did you mean `optim.lr`?"),
        ("learning-rate", "did you mean `optim.lr`?"),
        ("optim.warmup-steps", "write it with underscores: `optim.warmup_steps`"),
        ("optim.weight_dcay", "did you mean `optim.weight_decay`?"),
        ("optm.weight_decay", "`weight_decay` belongs to another section"),
        ("optm.weight_dcay", "did you mean `optim.weight_decay`?"),
        ("weight_dcay", "did you mean `optim.weight_decay`?"),
        ("modle", "did you mean `model`?"),
        ("zzzz", "the sections are run, model, data"),
        ("zzzz.qqqq", "the sections are run, model, data"),
        ("parallel.zzzz", "`parallel` has tp, dp"),
        ("optim.lr.peak", "`optim.lr` takes a number above 0, no keys below it"),
        ("extends", "join presets with `+`"),
    ],
)
def test_an_unknown_key_is_named_with_what_was_meant(key: str, help_text: str) -> None:
    error = error_of("quickstart", f"{key}=1")
    assert error.what == f"unknown key `{key}`"
    assert error.where == "the command line"
    assert help_text in error.help


@pytest.mark.parametrize(
    ("override", "help_text"),
    [
        ("train.steps=1_000", "write 1000: numbers have no underscores"),
        ("train.steps=010", "write 10: a number has no leading zero"),
        ("train.steps=1e3", "write 1000; `train.steps` takes a whole number above 0"),
        ("train.steps='5'", "write 5 without quotes"),
        ("train.steps=0", "takes a whole number above 0"),
        ("train.steps=true", "takes a whole number above 0"),
        ("train.steps=12:30", "takes a whole number above 0"),
        ("data.shuffle=off", "write true or false: YAML 1.2 has no other booleans"),
        ("data.shuffle=1", "takes true or false"),
        ("data.source=sdtlib", "did you mean `stdlib`; `data.source` takes stdlib, text, jsonl"),
        ("data.paths='*.txt'", 'write ["*.txt"]; `data.paths` takes a list of texts'),
        ("data.max_megabytes=0", "takes a number above 0 or null"),
        ("run.name=12", "write it in quotes; `run.name` takes text that matches"),
        ("run.name='a b'", "takes text that matches"),
        ("optim.lr=.nan", "takes a number above 0"),
        ("optim.lr=1e999", "takes a number above 0"),
        ("optim.final_lr_ratio=2", "takes a number of at least 0 and of at most 1"),
        ("optim.betas=[0.9]", "takes a list of 2, each a number of at least 0 and below 1"),
        ("optim.betas=[0.9, 1]", "takes a list of 2, each a number of at least 0 and below 1"),
        ("observe.trace_steps=3", "a list of 2, each a whole number of at least 0 or null"),
        ("parallel.dp=atuo", "did you mean `auto`; `parallel.dp` takes a whole number above 0"),
    ],
)
def test_a_wrong_value_is_answered_with_the_legal_ones(override: str, help_text: str) -> None:
    error = error_of("quickstart", override)
    assert error.what.startswith(override.partition("=")[0])
    assert error.where == "the command line"
    assert help_text in error.help


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("train.steps", "`train.steps` is not an override"),
        ("=3", "`=3` is not an override"),
        ("train.steps=", "a value is missing"),
        ("data.paths=*.txt", "a text that starts with * needs quotes"),
        ("optim=null", "`optim` is a section, not a value"),
        ("optim=3", "`optim` is a section, not a value"),
        ("optim={}", "`optim` is a section, not a value"),
    ],
)
def test_what_is_not_an_override_is_refused(override: str, what: str) -> None:
    error = error_of("quickstart", override)
    assert what in error.what
    assert error.where == "the command line"


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("optim.lr: 3\n", "`optim.lr`: dots are for the command line", 1),
        ("run:\n  name: x\ntrain: 5\n", "`train` is a section", 3),
        ("extends: 3\n", "`extends` takes one name or a list", 1),
        ("extends: [[a]]\n", "`extends` takes one name or a list", 1),
        ("\nextends: tyni\n", "there is no preset `tyni`", 2),
        ("extends: absent.yaml\n", "there is no file absent.yaml", 1),
        ("extends: quickstart\n", "configs/quickstart.yaml extends others", 4),
        ("optim:\n  lr: 1\n  lr: 2\n", "duplicate key 'lr'", 3),
    ],
)
def test_an_error_in_a_file_names_its_line(write: Write, text: str, what: str, line: int) -> None:
    error = error_of(write(text))
    assert what in error.what
    assert error.where.endswith(f".yaml:{line}")


def test_what_extends_cannot_be_joined() -> None:
    error = error_of("tiny+quickstart")
    assert "neither extended nor joined" in error.what
    assert "name what it extends instead: ['sizes/tiny', 'recipes/laptop']" in error.help


@pytest.mark.parametrize(
    ("config", "what", "help_text"),
    [
        ("quikstart", "there is no preset `quikstart`", "did you mean `quickstart`?"),
        ("quikstart.yaml", "there is no file quikstart.yaml", "did you mean `quickstart`?"),
        ("tiny+pretran", "there is no preset `pretran`", "did you mean `pretrain`?"),
        ("tiny+", "there is no preset ``", "`ndtrain config ls` lists the presets"),
        ("a\0b", "there is no preset", "`ndtrain config ls` lists the presets"),
        ("x" * 5000, "there is no preset", "`ndtrain config ls` lists the presets"),
    ],
)
def test_a_missing_config_is_answered_with_the_nearest_preset(
    config: str, what: str, help_text: str
) -> None:
    error = error_of(config)
    assert what in error.what
    assert help_text in error.help


def test_a_folder_is_not_a_config(write: Write) -> None:
    write("run: {}\n", "folder/x.yaml")
    assert "a folder" in error_of("folder").what


def test_all_errors_come_at_once_each_with_its_place(write: Write) -> None:
    path = write("extends: sizes/none\noptim:\n  lr: off\n  lr: 3\nlr: 3\ndata: {shuffle: no}\n")
    found = [(error.what, error.where) for error in errors_of(path, "train.steps=0", "x=1")]
    assert sorted(found) == sorted(
        [
            ("there is no preset `sizes/none`", "my.yaml:1"),
            ("duplicate key 'lr'", "my.yaml:4"),
            ("unknown key `lr`", "my.yaml:5"),
            ("unknown key `x`", "the command line"),
            ("optim.lr='off' is not legal", "my.yaml:3"),
            ("data.shuffle='no' is not legal", "my.yaml:6"),
            ("train.steps=0 is not legal", "the command line"),
        ]
    )


def test_a_very_long_value_is_cut_in_the_message() -> None:
    assert len(error_of("quickstart", f"data.source={'x' * 5000}").what) < 100


def test_a_key_with_unprintable_characters_stays_on_one_line() -> None:
    error = error_of("quickstart", "a\nb\x1b[31m=1")
    assert len(str(error).splitlines()) == 3
    assert "\x1b" not in str(error)
