"""JSON lines: records of `{"text": ...}` or of chat `{"messages": [{"role", "content"}, ...]}`.

The format is that of the first record that has one. A record of the other format is refused at
once; an unreadable one is a bad record, of which `max_bad_records` are reported and left out.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from ndtrain.core.errors import UserError, UserErrors
from ndtrain.data.chat import BadRecord, check_messages, render
from ndtrain.data.sources import Document, Format, Source, files_of_patterns

MAX_LISTED = 20  # bad records that one error shows
FORMAT_OF_KEY: dict[str, Format] = {"text": "text", "messages": "chat"}
KEY_OF_FORMAT = {value: key for key, value in FORMAT_OF_KEY.items()}


class JsonlSource(Source):
    """`train_on` says which tokens of a chat the loss counts; for `text` records it is unused."""

    def __init__(
        self,
        patterns: Sequence[str],
        max_bytes: int | None,
        train_on: Literal["assistant", "all"] = "assistant",
        max_bad_records: int = 0,
    ) -> None:
        super().__init__(files_of_patterns(patterns, "jsonl"), max_bytes)
        self.train_on = train_on
        self.max_bad_records = max_bad_records
        self._format, self.first_record = self._detect()

    @property
    def format(self) -> Format:
        return self._format

    def describe(self) -> str:
        key = KEY_OF_FORMAT[self._format]
        return f"{super().describe()}, `{key}` records (as in {self.first_record})"

    def identity(self) -> dict[str, Any]:
        settings = {"train_on": self.train_on, "max_bad_records": self.max_bad_records}
        return super().identity() | settings

    def documents(self, remarks: list[str]) -> Iterator[Document]:
        bad = BadRecords(self.max_bad_records)
        num_empty = 0
        for line, where in self._lines(remarks):
            try:
                record = parse_record(line)
                if format_of(record) != self._format:
                    raise self._mixed(record, where)
                document = self._document(record)
            except BadRecord as error:
                bad.add(str(error), where)
                continue
            if document.text:
                yield document
            else:
                num_empty += 1
        bad.finish(remarks)
        if num_empty:
            remarks.append(f"{num_empty} empty records left out")

    def _document(self, record: dict[str, Any]) -> Document:
        if self._format == "chat":
            if record.get("tools"):
                raise BadRecord("`tools` is not supported")
            text, spans = render(check_messages(record["messages"], self.train_on))
            return Document(text, spans if self.train_on == "assistant" else None)
        if not isinstance(record["text"], str):
            raise BadRecord("`text` is not a string")
        return Document(_without_surrogates(record["text"]))

    def _mixed(self, record: dict[str, Any], where: str) -> UserError:
        key = KEY_OF_FORMAT[self._format]
        return UserError(
            f"a `{KEY_OF_FORMAT[format_of(record)]}` record among `{key}` records",
            where=where,
            help=f"the format was taken from {self.first_record}; give one format at a time",
        )

    def _lines(self, remarks: list[str]) -> Iterator[tuple[bytes, str]]:
        """Lines that are not blank, each with its place, up to `max_bytes`."""
        num_bytes = 0
        for file in self.files:
            with open(file.path, "rb") as stream:
                for number, line in enumerate(stream, start=1):
                    num_bytes += len(line)
                    if self.max_bytes is not None and num_bytes > self.max_bytes:
                        remarks.append(f"stopped before {file.path}:{number}: data.max_megabytes")
                        return
                    if line.strip():
                        yield line, f"{file.path}:{number}"

    def _detect(self) -> tuple[Format, str]:
        bad = BadRecords(self.max_bad_records)
        for line, where in self._lines([]):
            try:
                return format_of(parse_record(line)), where
            except BadRecord as error:
                bad.add(str(error), where)
        bad.finish([])
        raise UserError(
            "no record found",
            where=str(self.files[0].path),
            help='a line is {"text": ...} or {"messages": ...}; see also data.max_megabytes',
        )


class BadRecords:
    """Counts what could not be read; raises, with up to 20 places, beyond what is tolerated."""

    def __init__(self, num_tolerated: int) -> None:
        self.num_tolerated = num_tolerated
        self.count = 0
        self._listed: list[UserError] = []

    def add(self, what: str, where: str) -> None:
        self.count += 1
        if len(self._listed) < MAX_LISTED:
            self._listed.append(UserError(f"bad record: {what}", where))
        if self.count > max(self.num_tolerated, MAX_LISTED - 1):
            raise self._error(reading_stopped=True)

    def finish(self, remarks: list[str]) -> None:
        if self.count > self.num_tolerated:
            raise self._error(reading_stopped=False)
        if self.count:
            places = "; ".join(f"{error.where}: {error.what}" for error in self._listed)
            more = "; ..." if self.count > len(self._listed) else ""
            remarks.append(f"{self.count} bad records left out: {places}{more}")

    def _error(self, reading_stopped: bool) -> UserErrors:
        at_least = "at least " if reading_stopped else ""
        total = UserError(
            f"{at_least}{self.count} bad records, {self.num_tolerated} are tolerated",
            where="data.max_bad_records",
            help="mend them, or raise data.max_bad_records to leave them out",
        )
        return UserErrors([*self._listed, total])


def parse_record(line: bytes) -> dict[str, Any]:
    """The object on one line. Raises BadRecord."""
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadRecord(f"not UTF-8 at byte {error.start} of the line") from None
    except json.JSONDecodeError as error:
        raise BadRecord(f"not JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:  # too deep, or an integer of too many digits
        raise BadRecord(f"not readable as JSON: {error}") from None
    if not isinstance(record, dict):
        raise BadRecord("not a JSON object")
    return record


def format_of(record: dict[str, Any]) -> Format:
    """Raises BadRecord unless exactly one of `text` and `messages` is there."""
    keys = [key for key in FORMAT_OF_KEY if key in record]
    if len(keys) != 1:
        found = "both `text` and `messages`" if keys else "neither `text` nor `messages`"
        raise BadRecord(f"{found} in the record")
    return FORMAT_OF_KEY[keys[0]]


def _without_surrogates(text: str) -> str:
    """JSON can spell half a surrogate pair, which no encoding has. Raises BadRecord."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRecord("`text` has an unpaired surrogate") from None
    return text
