"""Errors that a user can act on: what is wrong, where, and how to mend it.

Raise `UserError` (or a subclass) for anything the user can cause; the command line prints its
three lines without a traceback and exits with `exit_code`. `assert` is for our own invariants.
"""


class UserError(ValueError):
    """Something the user can mend.

    what: one sentence without a full stop, e.g. "unknown key `optim.learning_rate`".
    where: the place, e.g. "configs/my.yaml:14" or "the command line".
    help: how to mend it, e.g. "did you mean `optim.lr`?".
    """

    exit_code = 2

    def __init__(self, what: str, where: str = "", help: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.help = help

    def __reduce__(self) -> tuple:
        # BaseException would rebuild from `args` alone and lose two of the three lines when an
        # error crosses a process boundary.
        return (type(self), (self.what, self.where, self.help))

    def __str__(self) -> str:
        lines = [f"error: {_printable(self.what)}"]
        if self.where:
            lines.append(f"  at {_printable(self.where)}")
        if self.help:
            lines.append(f"  help: {_printable(self.help)}")
        return "\n".join(lines)


def _printable(text: str) -> str:
    """One line that a terminal can show: what a user typed may hold newlines and escape codes."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class UserErrors(UserError):
    """Several independent errors, found in one pass and printed together."""

    def __init__(self, errors: list[UserError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = errors

    def __reduce__(self) -> tuple:
        return (type(self), (self.errors,))

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class Unhealthy(UserError):
    """The run itself went wrong (non-finite loss, failed verification): a person has to look."""

    exit_code = 3
