"""No text makes the loader fail with anything but a user error."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ndtrain.config import presets
from ndtrain.config.load import Loaded, load
from ndtrain.core.errors import UserError

TEXTS = [(presets.folder() / f"{name}.yaml").read_text("utf-8") for name in presets.names()]
FRAGMENTS = st.sampled_from(
    [
        *("off", "1e-4", "010", "1_000", "12:30", ".nan", "null", "9" * 5000),
        *("&a ", "*a", "!!int ", "<<: ", "? ", "- ", ":", "# ", "|\n", ">\n", "---\n", "...\n"),
        *("{", "}", "[", "]", "'", '"', "[" * 50),
        *("\t", "\n", "\x00", "\x07", "\u2028", "\ufeff", '"\\ud800"', "extends: tiny\n"),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A preset with up to six lines dropped, doubled, swapped, re-indented or spliced."""
    lines = draw(st.sampled_from(TEXTS)).splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 6))):
        if not lines:
            break
        at = draw(st.integers(0, len(lines) - 1))
        column = draw(st.integers(0, len(lines[at])))
        match draw(st.sampled_from(["drop", "double", "swap", "indent", "splice", "noise"])):
            case "drop":
                del lines[at]
            case "double":
                lines.insert(at, lines[at])
            case "swap":
                lines.insert(at, lines.pop(draw(st.integers(0, len(lines) - 1))))
            case "indent":
                lines[at] = " " * draw(st.integers(0, 5)) + lines[at].lstrip(" ")
            case "splice":
                lines[at] = lines[at][:column] + draw(FRAGMENTS) + lines[at][column:]
            case "noise":
                lines[at] = lines[at][:column] + draw(st.text(max_size=8)) + "\n"
    content = "".join(lines).encode("utf-8")
    return content + draw(st.sampled_from([b"", b"", b"", b"\xff", b"\xc3"]))


def outcome(config: str, overrides: list[str]) -> Loaded | UserError:
    try:
        return load(config, overrides)
    except UserError as error:
        return error


def check_mutation(path: Path, content: bytes, override: str) -> None:
    path.write_bytes(content)
    result = outcome(str(path), [override] if override else [])
    if isinstance(result, UserError):
        # Readable: each error is a line that starts so, followed by indented ones.
        lines = str(result).splitlines()
        assert lines[0].startswith("error: ")
        assert all(line.startswith(("error: ", "  ")) for line in lines)
        str(result).encode("utf-8")
    else:
        assert result.origins.keys() >= {"optim.lr", "parallel.dp"}


OVERRIDES = st.one_of(
    st.just(""),
    st.text(max_size=20),
    st.builds("{}={}".format, st.sampled_from(["optim.lr", "data.paths", "run"]), st.text()),
    st.builds("{}={}".format, st.sampled_from(["train.steps", "run.name"]), FRAGMENTS),
)
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(content=mutated(), override=OVERRIDES)
def test_mutated_presets_load_or_are_refused(tmp_path: Path, content: bytes, override: str) -> None:
    check_mutation(tmp_path / "mutated.yaml", content, override)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=QUIET)
@given(content=mutated(), override=OVERRIDES)
def test_ten_thousand_mutated_presets(tmp_path: Path, content: bytes, override: str) -> None:
    check_mutation(tmp_path / "mutated.yaml", content, override)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(content=st.binary(max_size=200))
def test_any_bytes_load_or_are_refused(tmp_path: Path, content: bytes) -> None:
    check_mutation(tmp_path / "bytes.yaml", content, "")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(config=st.text(max_size=30))
def test_any_config_name_is_found_or_refused(config: str) -> None:
    assert isinstance(outcome(config, []), Loaded | UserError)
