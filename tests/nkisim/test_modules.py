"""How the simulator enters as `nki`."""

import subprocess
import sys
from pathlib import Path

import pytest

from ndtrain import nkisim
from ndtrain.nkisim import api, modules, public_names
from ndtrain.nkisim.errors import ApiError, NkiSimError, NotImplementedInSim

KERNEL = """
import nki, nki.language as nl, nki.isa as nisa
import numpy as np

@nki.jit
def double(x):
    tile = nl.load(x)
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    nl.store(out, nl.add(tile, tile))
    return out

if __name__ == "__main__":
    print(nki.simulate(double)(np.ones((2, 2), np.float32)).sum())
"""


def test_the_import_is_scoped() -> None:
    with nkisim.as_nki() as module:
        import nki

        assert nki is module
        assert nki.language is sys.modules["nki.language"]
    assert "nki" not in sys.modules
    assert "nki.isa" not in sys.modules


def test_nested_scopes_restore_the_outer_one() -> None:
    with nkisim.as_nki() as outer:
        with nkisim.as_nki("0.2") as inner:
            assert sys.modules["nki"] is inner
        assert sys.modules["nki"] is outer


def real_nki(folder: Path, *, placeholder: bool) -> None:
    package = folder / "nki"
    package.mkdir()
    (package / "__init__.py").write_text("")
    if not placeholder:
        (package / "isa").mkdir()
    meta = folder / "nki-0.7.1.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: nki\nVersion: 0.7.1\n")


def test_a_real_nki_is_never_shadowed_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_nki(tmp_path, placeholder=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert modules.installed() == (tmp_path / "nki", "0.7.1")
    with pytest.raises(NkiSimError, match=r"real nki 0\.7\.1"), nkisim.as_nki():
        pass
    with nkisim.as_nki(shadow=True) as module:
        assert module.simulate is not None


def test_the_placeholder_of_pypi_is_not_taken_for_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_nki(tmp_path, placeholder=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert modules.installed() is None
    with nkisim.as_nki():
        pass


def test_fresh_modules_are_imported_anew_and_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fresh_kernel.py").write_text(KERNEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    with nkisim.as_nki(fresh="fresh_kernel"):
        import fresh_kernel
    with nkisim.as_nki("0.2", fresh="fresh_kernel"):
        import fresh_kernel as again
    assert fresh_kernel is not again
    assert again.double.api == "0.2"
    assert "fresh_kernel" not in sys.modules


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ndtrain.nkisim", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_script_runs_with_the_simulator_as_its_nki(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(KERNEL)
    done = run_module(str(script))
    assert (done.returncode, done.stdout.strip()) == (0, "8.0")


def test_a_refusal_ends_a_script_with_three_lines(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(KERNEL.replace("nl.load(x)", "nl.ndarray((256, 4), nl.float32)"))
    done = run_module(str(script))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"at {script}:" in done.stderr


def test_the_names_that_the_tests_of_nki_library_look_for() -> None:
    with nkisim.as_cpu_simulator():
        import nki_cpu_simulator.nki.builtin
        import nki_cpu_simulator.nki.compiler
        import nki_cpu_simulator.nki.isa as isa
        import nki_cpu_simulator.nki.isa.constants as constants
        import nki_cpu_simulator.nki.language as language
        import nki_cpu_simulator.nki.language.dtypes
        import nki_cpu_simulator.nki.tensor
        import nki_cpu_simulator.nki.typing  # noqa: F401
        from nki_cpu_simulator import nki
    import numpy as np

    def kernel(x: object) -> object:
        tile = language.load(x)
        out = language.ndarray((32, 4), language.float32, buffer=language.shared_hbm)
        if language.program_id(0) == 0:
            isa.dma_copy(out, tile)
        return out

    x = np.ones((32, 4), np.float32)
    np.testing.assert_array_equal(nki.cpu_simulate(kernel)[2](x=x), x)
    assert constants.dge_mode is isa.dge_mode


def test_annotations_of_parameters() -> None:
    with nkisim.as_nki():
        import nki.typing as nt

    assert nt.tensor[128, 512].shape == (128, 512)
    assert nt.mutable_tensor.mutable


def test_every_public_name_is_there() -> None:
    built = modules.build()
    for table in (public_names.PUBLIC, public_names.BEYOND):
        for module, names in table.items():
            if module != "nki.language.NkiTensor":
                missing = [n for n in names if not hasattr(built[module], n)]
                assert not missing, module


def test_what_is_not_implemented_says_so() -> None:
    listed = {(n.module, n.name): n for n in api.names()}
    assert listed["nki.isa", "nc_matmul"].status == "implemented"
    assert listed["nki.isa", "range_select"].generation == 3
    for name in listed.values():
        if name.status == "implemented" or name.module == "nki.language.NkiTensor":
            continue
        with pytest.raises(NotImplementedInSim, match=f"{name.name} is not implemented in nkisim"):
            getattr(modules.build()[name.module], name.name)()


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ApiError, match=r"NKI 0\.9"), nkisim.as_nki("0.9"):
        pass
