"""Takes out of a text what is nobody else's business: people, machines, places, keys.

    redactor = Redactor(home=Path.home(), user="ada", hosts=["node7"], roots={"<run>": run},
                        secrets=secret_values(os.environ), places=["/data/corpus/*.jsonl"])
    redactor.text("ada@node7: /data/corpus/a.jsonl")       # "<user>@<host-1>: <path-1>.jsonl"
    redactor.value({"api_key": "x", "steps": 3})           # {"api_key": "<secret>", "steps": 3}

The same thing has the same name in every text that one Redactor sees. Rather too much than too
little is taken: absolute paths that lie in no known root, addresses, URLs, and the values of names
such as `api_key` whatever they look like.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

SECRET = "<secret>"
_SHELL = ("PWD", "OLDPWD")  # working directories
_MIN_SECRET = 6  # characters: shorter values of such variables are words like "true"

# The last word of a name that holds a secret; `tokens_per_second` and `tokenizer` hold none.
_SECRET_WORDS = (
    "key|apikey|token|secret|password|passwd|pwd|passphrase|credential|credentials|auth"
    "|authorization|cookie|netrc"
)
# After a word or a case boundary; a few words need none (HFTOKEN).
_NAME = (
    rf"[A-Za-z0-9_.-]*?(?:(?:(?<![A-Za-z0-9])|(?<=[a-z])(?=[A-Z]))(?i:{_SECRET_WORDS})"
    r"|(?i:token|secret|password|apikey))"
)
_SECRET_NAME = re.compile(rf"^{_NAME}$")
_ASSIGNED = re.compile(
    rf"(?P<name>(?<![A-Za-z0-9_.-]){_NAME}[\"']?\s*[=:]\s*)(?P<value>\"[^\"]*\"|'[^']*'|\S+)"
)
_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\bhf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}"  # OpenAI and others
    r"|\b(?:gh[opsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,})"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS access key ids
    r"|\bxox[abps]-[\w-]{10,}"  # Slack
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # JSON web tokens
    r"|(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}",
    re.DOTALL,
)
_LONG_HEX = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{40}(?![0-9A-Za-z])")  # W&B keys, git commits
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>)\]}]+")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_ADDRESS = re.compile(
    r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])"
    r"|(?<![\w:])(?:[0-9a-f]{1,4}:){3,7}[0-9a-f]{1,4}(?!\w)"
    r"|(?<![\w:])(?:[0-9a-f]{1,4}:){1,6}(?::[0-9a-f]{1,4}){1,6}(?!\w)",
    re.IGNORECASE,
)
_PATH = re.compile(r"(?<![\w.:/<>~])(?:~[\w.-]*)?/[^\s\"'<>|,;()\[\]{}]*[^\s\"'<>|,;:.()\[\]{}]")
_LOCAL = ("127.0.0.1", "0.0.0.0", "localhost")


class Redactor:
    """roots: name -> folder; paths inside keep what follows it. places: paths of data and weights.

    commits: hexadecimal names of git commits, which are the only ones that stay.
    """

    def __init__(
        self,
        *,
        home: Path,
        user: str,
        hosts: Iterable[str] = (),
        secrets: Iterable[str] = (),
        roots: Mapping[str, Path] | None = None,
        places: Iterable[str] = (),
        commits: Iterable[str] = (),
    ) -> None:
        self._home = str(home)
        self._commits = set(commits)
        self._names: dict[str, dict[str, str]] = {}
        # The longest first, so that none is cut by one that it contains.
        self._secrets = sorted(set(secrets), key=len, reverse=True)
        self._places = [_place(place) for place in sorted(set(places), key=len, reverse=True)]
        self._roots = sorted(
            ((str(folder), name) for name, folder in (roots or {}).items()),
            key=lambda root: len(root[0]),
            reverse=True,
        )
        longest_first = sorted(set(hosts) - set(_LOCAL), key=len, reverse=True)
        self._hosts = [_host(host) for host in longest_first]
        # `root` names no person, and would be taken out of mathematics too.
        self._user = user if user != "root" and len(user) > 1 else ""

    def value(self, value: Any, name: str = "") -> Any:
        """JSON or YAML: strings and keys are redacted, everything under a secret's name goes."""
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            if value != "" and _SECRET_NAME.match(name):
                return SECRET
            return self.text(value) if isinstance(value, str) else value
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(item, str(key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item, name) for item in value]
        return value

    def text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, SECRET)
        text = _SHAPES.sub(SECRET, text)
        text = _ASSIGNED.sub(self._assigned, text)
        text = _LONG_HEX.sub(lambda m: m[0] if m[0] in self._commits else SECRET, text)
        for place in self._places:
            text = place.sub(lambda match: self._path_name(match[0]), text)
        text = _URL.sub(lambda match: self._name("url", match[0]), text)
        text = _PATH.sub(lambda match: self._path(match[0]), text)
        text = _MAIL.sub(lambda match: self._name("mail", match[0]), text)
        text = _ADDRESS.sub(self._address, text)
        for host in self._hosts:
            text = host.sub(lambda match: self._name("host", match[0].lower()), text)
        return _word(self._user).sub("<user>", text) if self._user else text

    def _assigned(self, match: re.Match[str]) -> str:
        value = match["value"]
        quote = value[0] if value[0] in "\"'" else ""
        return f"{match['name']}{quote}{SECRET}{quote}"

    def _path(self, path: str) -> str:
        for folder, name in self._roots:
            if path == folder or path.startswith(folder + "/"):
                return name + path.removeprefix(folder)
        return self._path_name(path)

    def _path_name(self, path: str) -> str:
        """The ending stays: whether a file is .jsonl or .txt matters."""
        if path in (self._home, "~"):
            return "<home>"
        suffix = PurePosixPath(path).suffix
        ending = suffix if re.fullmatch(r"\.[a-z0-9]{1,11}", suffix) else ""
        return self._name("path", path) + ending

    def _address(self, match: re.Match[str]) -> str:
        return match[0] if match[0] in _LOCAL else self._name("address", match[0])

    def _name(self, kind: str, thing: str) -> str:
        known = self._names.setdefault(kind, {})
        return known.setdefault(thing, f"<{kind}-{len(known) + 1}>")


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """Values of the variables whose names say that they are secret."""
    return [
        value
        for name, value in environment.items()
        if len(value) >= _MIN_SECRET and name not in _SHELL and _SECRET_NAME.match(name)
    ]


def _word(text: str) -> re.Pattern[str]:
    return _bounded(re.escape(text))


def _host(host: str) -> re.Pattern[str]:
    """The machine and, if its name is numbered, its neighbours: node7 is node12 too."""
    is_numbered = re.match(r"[A-Za-z]{2}.*\d", host)
    return _bounded(re.sub(r"\d+", r"\\d+", re.escape(host)) if is_numbered else re.escape(host))


def _bounded(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])", re.IGNORECASE)


def _place(place: str) -> re.Pattern[str]:
    """A path or glob pattern as it stands and, if it is absolute, what else lies in its folder.

    Spaces in a path end it for everyone who does not know it; here they do not.
    """
    folder = re.split(r"[*?\[]", place)[0].rpartition("/")[0]
    rest = r"[^\s\"'<>|,;()\[\]{}]*"
    inside = rf"|{re.escape(folder)}/{rest}" if place[0] in "/~" and folder not in ("", "~") else ""
    return re.compile(rf"(?<![\w.:/<>~-])(?:{re.escape(place)}(?![\w-]){inside})")
