"""Classifying with a language model: against a local server that speaks the protocol, well and badly."""

from __future__ import annotations

import email.utils
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tmcr.cli.main import run
from tmcr.errors import TagError
from tmcr.tags.building.label import Label
from tmcr.tags.building.llm import Endpoint, LlmClassifier

FACETS = {"semantic": ("animals", "water"), "attribute": ("light", "focus")}
RIGHT = {
    "dog": {"tag": "dog", "library": "semantic", "facet": "animals", "polarity": ""},
    "sea": {"tag": "sea", "library": "semantic", "facet": "water"},
    "soft light": {"tag": "soft light", "library": "attribute", "facet": "light", "polarity": "praise"},
    "blurry": {"tag": "blurry", "library": "attribute", "facet": "focus", "polarity": "fault"},
    "opinion": {"tag": "opinion", "library": "neither", "facet": "", "polarity": ""},
}
EXPECTED = [
    Label("semantic", "animals", by="tiny"),
    Label("semantic", "water", by="tiny"),
    Label("attribute", "light", "praise", by="tiny"),
    Label("attribute", "focus", "fault", by="tiny"),
    Label("neither", by="tiny"),
]
TAGS = list(RIGHT)
Answer = Callable[["Server", list[str]], tuple[int, dict[str, str], bytes]]


def completion(content: str, **usage: int) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}], "usage": usage}).encode()


def good(server: Server, tags: list[str]) -> tuple[int, dict[str, str], bytes]:
    labels = json.dumps({"labels": [RIGHT[tag] for tag in tags if tag in RIGHT]})
    return 200, {}, completion(labels, prompt_tokens=100, completion_tokens=10)


class Server:
    """An endpoint whose first answers are given, the later ones good."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._answers = list(answers)
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.requests.append(body | {"path": self.path})
                    outer.headers.append(dict(self.headers))
                    answer = outer._answers.pop(0) if outer._answers else good
                status, headers, content = answer(outer, json.loads(body["messages"][-1]["content"])["tags"])
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:  # the client has given up
                    pass

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*answers: Answer) -> Server:
        servers.append(Server(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def classifier(server: Server | str, tmp_path: Path, **options: Any) -> tuple[LlmClassifier, list[float]]:
    pauses: list[float] = []
    url = server if isinstance(server, str) else server.url
    endpoint = Endpoint(url, "tiny", **{"timeout": 5.0, "parallel": 1} | options)
    return LlmClassifier(endpoint, FACETS, tmp_path / "answers.jsonl", sleep=pauses.append), pauses  # type: ignore[arg-type]


def says(content: str) -> Answer:
    return lambda server, tags: (200, {}, completion(content))


def fails(status: int, content: bytes = b"", **headers: str) -> Answer:
    return lambda server, tags: (status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


def test_labels_come_back_in_the_order_asked(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    model, _ = classifier(server, tmp_path, key="secret", batch=2, parallel=3)
    done: list[int] = []
    assert model.classify(TAGS, done.append) == EXPECTED
    assert sum(done) == 5
    assert len(server.requests) == 3
    request = server.requests[0]
    assert request["path"] == "/v1/chat/completions"
    assert request["model"] == "tiny"
    assert request["response_format"] == {"type": "json_object"}
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert (model.tokens_in, model.tokens_out) == (300, 30)


def test_a_local_server_gets_no_key(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    classifier(server, tmp_path)[0].classify(TAGS)
    assert "Authorization" not in server.headers[0]


def test_a_second_run_is_free_whatever_the_batches(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    classifier(server, tmp_path, batch=2)[0].classify(TAGS)
    asked = len(server.requests)
    again, _ = classifier(server, tmp_path, batch=5)
    assert again.estimate(TAGS).tags == 0
    assert again.classify(TAGS) == EXPECTED
    assert len(server.requests) == asked


def test_a_torn_cache_line_costs_one_question(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    classifier(server, tmp_path)[0].classify(TAGS)
    cache = tmp_path / "answers.jsonl"
    cache.write_bytes(cache.read_bytes()[:-20] + b"\n")
    again, _ = classifier(server, tmp_path)
    assert again.estimate(TAGS).tags == 1
    assert again.classify(TAGS) == EXPECTED


@pytest.mark.parametrize(
    "content",
    [
        "I am sorry, but I cannot do that.",
        "",
        '{"labels": [{"tag": "dog", "library": "sem',
        '{"labels": {"dog": "semantic"}}',
        '{"labels": [1, null, "dog", {"tag": 5, "library": "semantic"}, {"library": "semantic"}]}',
        json.dumps({"labels": [RIGHT["dog"] | {"library": "object"}]}),
        json.dumps({"labels": [RIGHT["dog"] | {"facet": "zoology"}]}),
        json.dumps({"labels": [RIGHT["soft light"] | {"polarity": "very good"}]}),
        json.dumps({"labels": [RIGHT["soft light"] | {"polarity": ""}]}),
        json.dumps({"labels": [RIGHT["dog"] | {"tag": "a tag nobody asked about"}]}),
    ],
)
def test_an_unusable_answer_is_asked_again(serve: Callable[..., Server], tmp_path: Path, content: str) -> None:
    server = serve(says(content))
    model, _ = classifier(server, tmp_path)
    assert model.classify(TAGS) == EXPECTED
    assert len(server.requests) == 2


def test_what_is_missing_is_asked_again_and_nothing_else(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(says(json.dumps({"labels": [RIGHT["dog"], RIGHT["blurry"]]})))
    assert classifier(server, tmp_path)[0].classify(TAGS) == EXPECTED
    asked = [json.loads(request["messages"][1]["content"])["tags"] for request in server.requests]
    assert asked == [TAGS, ["sea", "soft light", "opinion"]]


def test_json_wrapped_in_markdown_and_letter_case_are_understood(serve: Callable[..., Server], tmp_path: Path) -> None:
    labels = [RIGHT[tag] | {"tag": tag.upper(), "facet": RIGHT[tag].get("facet", "").title()} for tag in TAGS]
    server = serve(says(f"Here you are:\n```json\n{json.dumps({'labels': labels})}\n```"))
    assert classifier(server, tmp_path)[0].classify(TAGS) == EXPECTED
    assert len(server.requests) == 1


def test_a_model_that_never_answers_rightly_is_given_up(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(*[says("no")] * 10)
    assert classifier(server, tmp_path)[0].classify(TAGS) == [None] * 5
    assert len(server.requests) == 3


def test_a_rate_limit_is_waited_for_as_the_server_asks(serve: Callable[..., Server], tmp_path: Path) -> None:
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    limits = [fails(429, Retry_After=after) for after in ("7", soon, "soon")]
    server = serve(*limits, fails(503))
    model, pauses = classifier(server, tmp_path)
    assert model.classify(TAGS) == EXPECTED
    assert pauses[0] == 7
    assert 25 < pauses[1] <= 30
    assert pauses[2:] == [4, 8]  # no word from the server: longer from try to try


def test_a_server_that_goes_on_failing_ends_in_one_line_and_keeps_the_answers(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    broken = fails(500, b'{"error": {"message": "out of\\nmemory"}}')
    server = serve(good, *[broken] * 4)
    model, _ = classifier(server, tmp_path, batch=2, retries=3)
    with pytest.raises(TagError, match=r"answers 500 \(out of memory\), 4 times in a row; answers so far are") as error:
        model.classify(TAGS)
    assert "\n" not in str(error.value)
    again, _ = classifier(server, tmp_path)
    assert again.estimate(TAGS).tags == 3
    assert again.classify(TAGS) == EXPECTED


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (fails(401, b'{"error": {"message": "bad key"}}'), r"answers 401 \(bad key\); check the key"),
        (fails(404, b"<html>"), "answers 404; check --llm and --llm-model"),
        (fails(400, b'{"error": {"message": "no such model"}}'), r"answers 400 \(no such model\)"),
    ],
)
def test_a_refusal_is_not_tried_again(
    serve: Callable[..., Server], tmp_path: Path, answer: Answer, message: str
) -> None:
    server = serve(answer)
    with pytest.raises(TagError, match=message):
        classifier(server, tmp_path)[0].classify(TAGS)
    assert len(server.requests) == 1


@pytest.mark.parametrize("content", [b"not json at all", b"[]", b"\xff\xfe"])
def test_a_reply_that_is_no_completion_is_tried_again(
    serve: Callable[..., Server], tmp_path: Path, content: bytes
) -> None:
    server = serve(fails(200, content))
    assert classifier(server, tmp_path)[0].classify(TAGS) == EXPECTED
    assert len(server.requests) == 2


def test_a_slow_server_is_given_up_on_and_asked_again(serve: Callable[..., Server], tmp_path: Path) -> None:
    def slow(server: Server, tags: list[str]) -> tuple[int, dict[str, str], bytes]:
        time.sleep(0.6)
        return good(server, tags)

    server = serve(slow)
    model, pauses = classifier(server, tmp_path, timeout=0.2)
    assert model.classify(TAGS) == EXPECTED
    assert len(pauses) == 1
    with pytest.raises(TagError, match=r"gives no answer within 0.2 s, 1 times"):
        classifier(serve(slow), tmp_path / "other", timeout=0.2, retries=0)[0].classify(TAGS)


def test_an_endpoint_that_is_down_is_said(tmp_path: Path) -> None:
    model, pauses = classifier("http://127.0.0.1:9/v1", tmp_path, retries=2)
    with pytest.raises(TagError, match=r"127.0.0.1:9.*cannot be reached \(.*refused.*3 times in a row"):
        model.classify(TAGS)
    assert pauses == [1, 2]


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host/v1", "file:///etc/passwd", "http://"])
def test_only_web_addresses_are_taken(url: str) -> None:
    with pytest.raises(TagError, match="is no http"):
        Endpoint(url, "tiny")


def test_the_estimate_grows_with_the_tags_and_knows_prices(tmp_path: Path) -> None:
    free = classifier("http://localhost:1/v1", tmp_path)[0].estimate(TAGS * 2)
    assert (free.tags, free.cached, free.requests, free.dollars) == (5, 0, 1, None)
    assert "no price given" in str(free)
    many = [f"tag {i}" for i in range(1000)]
    paid = classifier("http://localhost:1/v1", tmp_path, price_in=2.0, price_out=8.0)[0].estimate(many)
    assert paid.requests == 25
    assert paid.dollars == pytest.approx((paid.tokens_in * 2 + paid.tokens_out * 8) / 1e6)


# --- the command ---


@pytest.fixture
def tmcr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tmcr", "tags", "build", *map(str, arguments)])
        code = 0
        try:
            run()
        except SystemExit as stop:
            code = int(stop.code or 0)
        output = capsys.readouterr()
        return code, output.out, output.err

    return command


@pytest.fixture
def comments(tmp_path: Path) -> Path:
    path = tmp_path / "comments.txt"
    path.write_text("".join(f"the dog at the sea in soft light is blurry, opinion {i}\n" for i in range(30)))
    return path


def shipped_labels(server: Server, tags: list[str]) -> tuple[int, dict[str, str], bytes]:
    label = {"library": "attribute", "facet": "light", "polarity": "praise"}
    labels = [{"tag": tag} | label for tag in tags]
    labels += [{"tag": "dog", "library": "semantic", "facet": "animals"}]
    return 200, {}, completion(json.dumps({"labels": labels}))


def test_the_command_asks_first_then_builds_and_a_rerun_asks_nothing(
    tmcr: Any, serve: Callable[..., Server], comments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(*[shipped_labels] * 4)
    monkeypatch.setenv("MY_KEY", "from the environment")
    model = ("--llm", server.url, "--llm-model", "tiny", "--key-from", "MY_KEY")
    arguments = [comments, "--out", tmp_path / "out", *model]
    code, out, err = tmcr(*arguments)
    assert (code, server.requests) == (2, [])
    assert "candidates to ask" in out
    assert "--yes" in err
    code, out, _ = tmcr(*arguments, "--yes")
    assert code == 0
    assert server.headers[0]["Authorization"] == "Bearer from the environment"
    asked = len(server.requests)
    code, out, _ = tmcr(*arguments)  # known already: nothing to be asked about
    assert code == 0
    assert len(server.requests) == asked
    assert "from the environment" not in "".join(p.read_text(errors="replace") for p in (tmp_path / "out").glob("*.*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--llm", "http://localhost:1/v1"], "go together"),
        (["--llm", "http://localhost:1/v1", "--llm-model", "m", "--max-cost", "1"], "needs --price-in"),
        (["--llm", "http://localhost:1/v1", "--llm-model", "m", "--offline"], "--offline forbids"),
        (["--llm", "http://localhost:1/v1", "--llm-model", "m", "--price-in", "1e6", "--max-cost", "0.01", "--yes"],
         "more than --max-cost 0.01"),
    ],
)  # fmt: skip
def test_bad_arguments_are_one_line(
    tmcr: Any, comments: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, _, err = tmcr(comments, "--out", tmp_path / "out", *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
