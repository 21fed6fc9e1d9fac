"""`ndtrain.nkisim`: the NKI language, instructions and collectives on NumPy.

    from ndtrain import nkisim
    with nkisim.as_nki():
        import my_kernel                        # its `import nki` gets the simulator
    run = nkisim.run(my_kernel.kernel, q, k, v, target="trn2", cores=2)
    run.outputs, run.stream, run.occupancy()

It executes kernels without Neuron hardware and refuses what the hardware refuses. It imports
neither torch nor anything of ndtrain but `core`. See README.md beside this file.
"""

from ndtrain.nkisim.errors import NkiSimError
from ndtrain.nkisim.launch import Run, run, run_ranks
from ndtrain.nkisim.machine import Options
from ndtrain.nkisim.modules import as_cpu_simulator, as_nki, installed
from ndtrain.nkisim.target import Target, target_named

__all__ = [
    "NkiSimError",
    "Options",
    "Run",
    "Target",
    "as_cpu_simulator",
    "as_nki",
    "installed",
    "run",
    "run_ranks",
    "target_named",
]
