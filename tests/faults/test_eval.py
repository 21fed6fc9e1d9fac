"""`ndtrain eval` finds the held-out loss that the run itself found at the same step."""

import json
import math

import pytest

from ndtrain.cli.main import main
from tests.faults.runs import Case


def test_it_agrees_with_the_run(undisturbed: Case, capfd: pytest.CaptureFixture[str]) -> None:
    (expected,) = [
        record["held_out_loss"]
        for record in undisturbed.records()
        if record["step"] == 6 and "held_out_loss" in record
    ]
    arguments = ["eval", str(undisturbed.directory), str(undisturbed.config), "--json"]
    assert main([*arguments, "--rows", "4"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["loss"] == pytest.approx(expected, rel=1e-6)
    assert result["perplexity"] == pytest.approx(math.exp(expected), rel=1e-6)
    assert (result["step"], result["num_rows"]) == (6, 4)
    assert main([*arguments, "data.held_out_fraction=0.0"]) == 2
    assert "no token is held out" in capfd.readouterr().err
