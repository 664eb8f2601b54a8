"""Step 4, with a language model: any endpoint that speaks OpenAI's chat completions, remote or local.

Candidates go out in batches; the answer must be JSON that `_Answer` validates. What is missing or wrong is asked
again, at most ROUNDS times; what stays wrong is left to the offline classifier. Every good answer is appended to a
cache keyed by model, prompt and tag, so that a run that is stopped, or repeated, pays for nothing twice.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import json
import math
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from tmcr.errors import TagError
from tmcr.tags.building.label import Label, Where

ROUNDS = 3
_LETTERS_PER_TOKEN = 4.0  # of English text under the tokenizers in use; an estimate is all that is needed
_TOKENS_PER_ANSWER = 32
_LONGEST_ANSWER = 4_000_000  # bytes
_LONGEST_WAIT = 120.0
_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how patiently.

    Attributes:
        url: base address, e.g. http://localhost:8080/v1; "/chat/completions" is added where it is missing.
        model: the model's name there.
        key: sent as bearer token; "" for servers that want none.
        batch: candidates in one request.
        parallel: requests at a time.
        timeout: seconds for one request.
        retries: tries after the first, for failures that may pass.
        price_in, price_out: dollars for a million tokens; 0 for a server of one's own.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    batch: int = 40
    parallel: int = 4
    timeout: float = 120.0
    retries: int = 5
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TagError(f"--llm {self.url!r} is no http(s) address; give e.g. http://localhost:8080/v1")

    @property
    def address(self) -> str:
        base = self.url.rstrip("/")
        return base if base.endswith("/chat/completions") else f"{base}/chat/completions"


@dataclass(frozen=True)
class Estimate:
    """What classifying will cost, before it is begun.

    Attributes:
        tags: how many are to be asked; those in the cache are free.
        cached: how many are known.
        requests: how many there will be if none fails.
        tokens_in, tokens_out: estimated from the number of letters.
        dollars: by the endpoint's prices, None where it has none.
    """

    tags: int
    cached: int
    requests: int
    tokens_in: int
    tokens_out: int
    dollars: float | None

    def __str__(self) -> str:
        cost = "no price given" if self.dollars is None else f"about ${self.dollars:.2f}"
        return (
            f"{self.tags:,} candidates to ask ({self.cached:,} known already) in {self.requests:,} requests: about "
            f"{self.tokens_in:,} tokens in and {self.tokens_out:,} out, {cost}"
        )


class _Item(BaseModel):
    """One tag's label as a model should write it."""

    tag: str
    library: Literal["semantic", "attribute", "neither"]
    facet: str = ""
    polarity: Literal["praise", "fault", "neutral", ""] = ""


class _Answer(BaseModel):
    labels: list[Any]


class _Passing(Exception):
    """A failure that may pass; waits `after` seconds where the server said so."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after


class LlmClassifier:
    """Labels candidates by asking an endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        facets: Mapping[Where, Sequence[str]],
        cache: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Read the cache; nothing is asked yet.

        Args:
            facets: library → facets a tag may be put into.
            cache: JSON lines, appended to.
        """
        self.name = endpoint.model
        self._endpoint = endpoint
        self._facets = {library: {facet.lower(): facet for facet in names} for library, names in facets.items()}
        self._prompt = _instructions(facets)
        self._cache = cache
        self._sleep = sleep
        self._lock = threading.Lock()
        self._failed = threading.Event()
        self._known = dict(_read_cache(cache))
        self.tokens_in = 0
        self.tokens_out = 0

    def estimate(self, tags: Sequence[str]) -> Estimate:
        """Requests, tokens and dollars for the tags that are not in the cache."""
        unknown = self._unknown(tags)
        requests = math.ceil(len(unknown) / self._endpoint.batch)
        letters = requests * len(self._prompt) + sum(len(tag) + 4 for tag in unknown)
        tokens_in = round(letters / _LETTERS_PER_TOKEN)
        tokens_out = len(unknown) * _TOKENS_PER_ANSWER
        prices = (self._endpoint.price_in, self._endpoint.price_out)
        dollars = (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6 if any(prices) else None
        return Estimate(len(unknown), len(set(tags)) - len(unknown), requests, tokens_in, tokens_out, dollars)

    def classify(self, tags: Sequence[str], on_done: Callable[[int], None] = lambda _: None) -> list[Label | None]:
        """A label for each tag, None where the model never gave a usable one.

        Args:
            on_done: called with the number of tags that a request settled.

        Raises:
            TagError: the endpoint refuses, cannot be reached, or goes on failing; what it answered is kept.
        """
        self._failed.clear()
        for _ in range(ROUNDS):
            unknown = self._unknown(tags)
            if not unknown:
                break
            size = self._endpoint.batch
            batches = [unknown[start : start + size] for start in range(0, len(unknown), size)]
            with ThreadPoolExecutor(self._endpoint.parallel) as pool:
                asked = [pool.submit(self._ask, batch) for batch in batches]
                try:
                    for done in as_completed(asked):
                        on_done(done.result())
                except BaseException:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
        return [self._known.get(self._key(tag)) for tag in tags]

    def _unknown(self, tags: Sequence[str]) -> list[str]:
        return [tag for tag in dict.fromkeys(tags) if self._key(tag) not in self._known]

    def _key(self, tag: str) -> str:
        """What the answer depends on: not how tags are put into batches, nor the server's address."""
        return hashlib.sha256(json.dumps([self._endpoint.model, self._prompt, tag]).encode()).hexdigest()[:32]

    def _ask(self, batch: list[str]) -> int:
        """Ask for a batch, keep what is usable; returns how many tags that settled."""
        if self._failed.is_set():  # another batch was refused: this one would be too
            return 0
        body = {
            "model": self._endpoint.model,
            "temperature": 0,
            "response_format": {"type": "json_object"},
            "messages": [
                {"role": "system", "content": self._prompt},
                {"role": "user", "content": json.dumps({"tags": batch}, ensure_ascii=False)},
            ],
        }
        try:
            reply = self._request(body)
        except TagError:
            self._failed.set()
            raise
        found = self._usable(_content(reply), batch)
        usage = reply.get("usage")
        with self._lock:
            if isinstance(usage, dict):
                self.tokens_in += _count(usage.get("prompt_tokens"))
                self.tokens_out += _count(usage.get("completion_tokens"))
            for tag, label in found.items():
                self._known[self._key(tag)] = label
            self._remember(found)
        return len(found)

    def _usable(self, text: str, batch: list[str]) -> dict[str, Label]:
        """The labels of an answer that are for tags we asked about and name a facet we know."""
        asked = {tag.lower(): tag for tag in batch}
        found: dict[str, Label] = {}
        for item in _items(text):
            tag = asked.get(item.tag.strip().lower())
            if tag is None:
                continue
            if item.library == "neither":
                found[tag] = Label("neither", by=self.name)
                continue
            facet = self._facets[item.library].get(item.facet.strip().lower())
            if facet is None or (item.library == "attribute" and not item.polarity):
                continue
            polarity = item.polarity if item.library == "attribute" else ""
            found[tag] = Label(item.library, facet, polarity, by=self.name)
        return found

    def _remember(self, found: Mapping[str, Label]) -> None:
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        with self._cache.open("a", encoding="utf-8") as file:
            for tag, label in found.items():
                row = {"key": self._key(tag), "tag": tag, "library": label.library, "facet": label.facet}
                file.write(json.dumps(row | {"polarity": label.polarity, "by": label.by}, ensure_ascii=False) + "\n")

    # --- one request ---

    def _request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send, and try again with growing pauses while the failure may pass."""
        for attempt in range(self._endpoint.retries + 1):
            try:
                return self._send(body)
            except _Passing as failure:
                if attempt == self._endpoint.retries:
                    raise TagError(
                        f"{self._endpoint.address}: {failure}, {attempt + 1} times in a row; answers so far are kept, "
                        "run the same command again when it is back"
                    ) from None
                pause = failure.after if failure.after is not None else min(2.0**attempt, 30.0)
                self._sleep(min(pause, _LONGEST_WAIT))
        raise AssertionError("unreachable")

    def _send(self, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "tmcr"}
        if self._endpoint.key:
            headers["Authorization"] = f"Bearer {self._endpoint.key}"
        request = urllib.request.Request(self._endpoint.address, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self._endpoint.timeout) as response:
                raw = response.read(_LONGEST_ANSWER + 1)
        except urllib.error.HTTPError as error:
            said = _said(error.read(2000))
            if error.code in _RETRIED:
                raise _Passing(f"answers {error.code}{said}", _retry_after(error.headers.get("Retry-After"))) from None
            hint = "; check the key in the environment" if error.code in (401, 403) else "; check --llm and --llm-model"
            raise TagError(f"{self._endpoint.address}: answers {error.code}{said}{hint}") from None
        except TimeoutError:
            raise _Passing(f"gives no answer within {self._endpoint.timeout:g} s") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _Passing(f"gives no answer within {self._endpoint.timeout:g} s") from None
            raise _Passing(f"cannot be reached ({error.reason})") from None
        except (http.client.HTTPException, OSError) as error:
            raise _Passing(f"breaks off ({type(error).__name__})") from None
        if len(raw) > _LONGEST_ANSWER:
            raise _Passing("answers without end")
        try:
            reply = json.loads(raw)
        except ValueError:
            raise _Passing("answers with something that is no JSON") from None
        if not isinstance(reply, dict):
            raise _Passing("answers with something that is no chat completion")
        return reply


def _instructions(facets: Mapping[Where, Sequence[str]]) -> str:
    """What the model is told; its text is part of the cache key."""
    return (
        "You sort words and short phrases from comments on photos into two tag libraries.\n"
        "semantic: names something that can be seen in a photo (an object, a scene, a person, an activity, an animal, "
        "a season, a genre of photography).\n"
        "attribute: says how a photo looks or how well it is made (composition, light, colour, focus, mood, verdict).\n"
        "neither: talk about the contest or the writers, names of people and brands, words without content, words "
        "that put people down, anything that is no English noun phrase or adjective.\n"
        f"Facets of semantic: {', '.join(facets['semantic'])}.\n"
        f"Facets of attribute: {', '.join(facets['attribute'])}.\n"
        "Attributes have a polarity: praise, fault, or neutral where it depends on the photo.\n"
        'The user sends {"tags": [...]}. Answer with JSON only: {"labels": [{"tag": "...", "library": "semantic", '
        '"facet": "...", "polarity": ""}, ...]}, one label for each tag, tags and facets copied exactly, '
        "facet and polarity empty for neither, polarity empty for semantic."
    )


def _content(reply: Mapping[str, Any]) -> str:
    """The text of a chat completion, "" where it is none."""
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return ""
    return text if isinstance(text, str) else ""


def _items(text: str) -> Iterator[_Item]:
    """The valid labels in an answer; models like to wrap their JSON in Markdown or in words."""
    match = re.search(r"\{.*\}", text, re.S)
    try:
        answer = _Answer.model_validate_json(match.group() if match else text)
    except ValidationError:
        return
    for raw in answer.labels:
        try:
            yield _Item.model_validate(raw)
        except ValidationError:
            continue


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _said(raw: bytes) -> str:
    """The server's own word on an error, in one short line."""
    try:
        message = json.loads(raw)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f" ({' '.join(str(message).split())[:160]})"


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date."""
    if not value:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None


def _read_cache(path: Path) -> Iterator[tuple[str, Label]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            row = json.loads(line)
            yield row["key"], Label(row["library"], row["facet"], row["polarity"], by=row["by"])
        except (ValueError, KeyError, TypeError):  # a line that a kill cut in the middle
            continue
