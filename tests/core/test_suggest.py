"""Did-you-mean."""

import pytest

from ndtrain.core.suggest import advice, did_you_mean, nearest


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("trian", "train"), ("TRAIN", "train"), ("global-batch_size", "global_batch_size")],
)
def test_the_nearest_name_is_found_whatever_its_case_and_hyphens(typed: str, meant: str) -> None:
    assert nearest(typed, ["validate", "global_batch_size", "train"]) == meant
    assert did_you_mean(typed, [meant]) == f"did you mean `{meant}`?"


def test_nothing_near_gives_no_suggestion() -> None:
    assert nearest("zzz", ["train", "validate"]) is None
    assert did_you_mean("zzz", []) == ""
    assert advice("zzz", ["train"], "see --help") == "see --help"
    assert advice("trian", ["train"], "see --help") == "did you mean `train`? (see --help)"


def test_of_two_spellings_the_first_is_named() -> None:
    assert nearest("--nproc-per-nod", ["--nproc-per-node", "--nproc_per_node"]) == (
        "--nproc-per-node"
    )
