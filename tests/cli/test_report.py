"""`ndtrain report`: where the file goes, and what is refused."""

from pathlib import Path

from tests.cli.conftest import Run
from tests.observe.report.runs import balanced, make_run


def test_the_report_goes_into_the_run_or_where_it_is_asked_for(run: Run, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "small", num_steps=4).path
    result = run("report", str(folder))
    assert result == (0, f"wrote {folder / 'report.html'}\n", "")
    balanced((folder / "report.html").read_text("utf-8"))
    other = tmp_path / "other.html"
    assert run("report", str(folder), "-o", str(other)).code == 0
    assert other.exists()


def test_what_could_not_be_read_is_said_on_the_terminal_too(run: Run, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "small", num_steps=4).path
    (folder / "env.json").write_text("{")
    result = run("report", str(folder))
    assert result.code == 0
    assert result.err.startswith("warning: env.json is not readable")


def test_refusals(run: Run, tmp_path: Path) -> None:
    result = run("report", str(tmp_path))
    assert result.code == 2
    assert "not a run directory" in result.err
    folder = make_run(tmp_path / "small", num_steps=1).path
    result = run("report", str(folder), "-o", str(tmp_path / "absent" / "report.html"))
    assert result.code == 2
    assert "cannot write the report" in result.err
