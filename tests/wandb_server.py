"""As much of W&B's server as a run needs: it keeps the history that the client sends, and says what it has."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OWNER = {"id": "owner", "name": "owner"}


@dataclass
class Kept:
    """A run on the server: its lines by number, as JSON, and the exit status of its last session."""

    group: str | None = None
    lines: dict[int, str] = field(default_factory=dict)
    summary: str = "{}"
    exit: int | None = None

    @property
    def steps(self) -> list[int]:
        return [json.loads(self.lines[number])["_step"] for number in sorted(self.lines)]


class Handler(BaseHTTPRequestHandler):
    runs: dict[str, Kept]

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        values = json.loads(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
        answer = self.stream(values) if "file_stream" in self.path else {"data": self.query(values)}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, values: dict[str, Any]) -> dict[str, Any]:
        """Keep the lines of the history, from the number that the client says."""
        run = self.runs[self.path.split("/")[-2]]
        for name, part in (values.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                run.lines |= dict(enumerate(part["content"], part["offset"]))
            elif name == "wandb-summary.json":
                run.summary = part["content"][-1]
        if values.get("complete"):
            run.exit = values["exitcode"]
        return {}

    def query(self, values: dict[str, Any]) -> dict[str, Any]:
        name = values.get("variables", {}).get("name")
        if "upsertBucket" in values["query"]:
            run = self.runs.setdefault(name, Kept())
            run.group = values["variables"].get("groupName") or run.group
            project = {"id": "project", "name": "project", "entity": OWNER}
            return {"upsertBucket": {"bucket": {"id": name, "name": name, "project": project}, "inserted": True}}
        if "RunResumeStatus" in values["query"]:
            return {"model": {"id": "project", "name": "project", "entity": OWNER, "bucket": self.resume_status(name)}}
        return {"serverInfo": {"features": []}, "createRunFiles": {"runID": "", "uploadHeaders": [], "files": []}}

    def resume_status(self, name: str) -> dict[str, Any] | None:
        if name not in self.runs:
            return None
        lines = [line for _, line in sorted(self.runs[name].lines.items())]
        counts = {"historyLineCount": len(lines), "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": json.dumps(lines[-1:]), "eventsTail": "[]", "summaryMetrics": self.runs[name].summary}
        return {"id": name, "name": name, "config": "{}", "wandbConfig": '{"t": 1}', "tags": [], **counts, **tails}


@contextmanager
def serving() -> Iterator[tuple[str, dict[str, Kept]]]:
    """Serve within the block; yield the address and the runs that the server has."""
    runs: dict[str, Kept] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"runs": runs}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", runs
    finally:
        server.shutdown()
        server.server_close()
