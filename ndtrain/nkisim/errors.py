"""What the simulator raises: every refusal names the instruction, the limit and the kernel's line.

`NkiSimError` is the base; the subclasses say which kind of rule was broken, so that a test (or a
mutant) can ask for exactly one.
"""

from ndtrain.core.errors import UserError


class NkiSimError(UserError):
    """A kernel asked for something that the hardware, the compiler or this simulator refuses."""


class NotImplementedInSim(NkiSimError):
    """A public name of the NKI API that this simulator does not execute."""


class ApiError(NkiSimError):
    """A name or an argument that the selected NKI version does not have."""


class HardwareLimit(NkiSimError):
    """A shape, buffer, dtype or engine that the selected NeuronCore generation cannot run."""


class CapacityError(NkiSimError):
    """The live tensors do not fit SBUF or PSUM."""


class AliasError(NkiSimError):
    """A tensor was read after another tensor at an overlapping explicit address was written."""


class AccumulationError(NkiSimError):
    """A matmul accumulates onto PSUM that no matmul wrote."""


class UninitializedError(NkiSimError):
    """Data that nothing ever wrote reached an output of the kernel."""


class RaceError(NkiSimError):
    """Two cores touch the same memory and nothing orders the two accesses."""


class DeadlockError(NkiSimError):
    """No core can make progress."""


class LanguageError(NkiSimError):
    """A Python construct that the NKI compiler does not accept inside a kernel."""


def not_implemented(name: str) -> NotImplementedInSim:
    return NotImplementedInSim(
        f"{name} is not implemented in nkisim",
        help="`ndtrain.nkisim.api.names()` lists what is",
    )


def missing_in_0_2(module: str, name: str) -> ApiError:
    return ApiError(
        f"{module}.{name} does not exist in NKI 0.2",
        help="trn1 clusters on Neuron 2.28 have NKI 0.2; keep to its names there",
    )
