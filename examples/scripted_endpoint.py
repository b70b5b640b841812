"""A stand-in for a language model, to try `pairuni complete` without one: `python examples/scripted_endpoint.py`.

It speaks the OpenAI chat protocol on this machine and replies by rules to the shipped prompts: a caption repeats the
question with its right option, a question asks for the caption among three others, and every verdict is "no
contradiction". It never looks at an image, so what it writes is good for trying the commands and for nothing else.

    python examples/scripted_endpoint.py --port 8000 &
    pairuni complete --config configs/photos/complete.yaml     # its base_url is http://localhost:8000/v1
"""

import argparse
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OTHER_CAPTIONS = (
    "A white horse gallops along an empty beach at dawn.",
    "A chef slices onions in a crowded restaurant kitchen.",
    "A yellow submarine rests on the floor of a deep blue sea.",
    "An astronaut floats above a planet with two moons.",
)


def reply(request: dict[str, Any]) -> dict[str, Any]:
    """What is said to a chat request: the fields of its JSON schema."""
    text = " ".join(part["text"] for part in request["messages"][0]["content"] if part["type"] == "text")
    name = request["response_format"]["json_schema"]["name"]
    if name == "CaptionReply":
        answer = right_option(text)
        caption = f"A photograph. {stem(text)} {answer[0].upper()}{answer[1:]}."
        return {"caption": caption, "evidence": answer, "consistent": True}
    if name == "QuestionReply":
        caption = " ".join(between(text, "do not see:", "Write a multiple-choice").split())
        wrong = [other for other in OTHER_CAPTIONS if other.casefold() != caption.casefold()][:3]
        question = "Which of these captions fits the image?"
        return {"question": question, "right": caption, "wrong": wrong, "consistent": True}
    return {"contradiction": False, "reason": ""}


def completion(text: str) -> bytes:
    """A chat completion with this text as the protocol has it."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    fields = {"id": "c", "object": "chat.completion", "created": 1, "model": "scripted"}
    return json.dumps({**fields, "choices": choices, "usage": usage}).encode()


def right_option(prompt: str) -> str:
    """The words of the right answer: of its letter, where the question has options."""
    answer = between(prompt, "Right answer:", "\n").strip()
    options = dict(re.findall(r"\b([A-H])\. (.*?)(?= [A-H]\. |\n|$)", between(prompt, "Question:", "Right answer:")))
    return options.get(answer, answer).strip(" .") or answer


def stem(prompt: str) -> str:
    """The question without options and instruction."""
    return re.split(r" A\. |\n", between(prompt, "Question:", "Right answer:").strip())[0]


def between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]


class Handler(BaseHTTPRequestHandler):
    """One chat request: its fields are read, its answer is sent."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing per request."""

    def request_body(self) -> dict[str, Any]:
        return json.loads(self.rfile.read(int(self.headers["content-length"])))

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.send(200, completion(json.dumps(reply(self.request_body()))))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, default=8000)
    server = ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Handler)
    print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
