"""User errors: three lines, whole after a process boundary, and the exit codes."""

import copy

from ndtrain.core.errors import Unhealthy, UserError, UserErrors


def test_an_error_is_what_where_help() -> None:
    error = UserError("unknown key `x`", "a.yaml:3", "did you mean `y`?")
    assert str(error) == "error: unknown key `x`\n  at a.yaml:3\n  help: did you mean `y`?"
    assert str(UserError("only what")) == "error: only what"


def test_copies_keep_all_three_lines() -> None:
    # `copy` goes through __reduce__, as does every transport to another process.
    error = UserError("what", "where", "help")
    several = UserErrors([error, Unhealthy("loss is nan")])
    assert str(copy.copy(error)) == str(error)
    assert str(copy.copy(several)) == str(several) == f"{error}\nerror: loss is nan"
    assert [type(e) for e in copy.copy(several).errors] == [UserError, Unhealthy]


def test_exit_codes() -> None:
    assert (UserError("x").exit_code, UserErrors([]).exit_code, Unhealthy("x").exit_code) == (
        2,
        2,
        3,
    )


def test_what_a_user_typed_cannot_break_the_lines() -> None:
    error = UserError("key a\nb", "\x1b[31m\x85", "Gr\u00f6\u00dfe \ud800")
    assert str(error) == ("error: key a\\nb\n  at \\x1b[31m\\x85\n  help: Gr\u00f6\u00dfe \\ud800")
