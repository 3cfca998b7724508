"""Captioning throughput: how busy the engine keeps a fast endpoint, guard and store included.

usage: python -m benchmarks.captions [--rounds 36] [--captions 8] [--save FILE]

A stub server in a process of its own answers every question after a fixed time with captions that state the facts, and
integrates the questions that it has under way. Busy is that integral over concurrency times the time from the first
question to the last answer: 1 means that nothing but the endpoint bounds the run. The last questions of a run, asked
again for what was refused, leave the endpoint partly idle: the fewer rounds, the more that counts. Ends with one line
of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import re
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from clipmed.records import Caption, Modality, Sample, sample_key
from dataset_builders.captions.endpoint import EndpointConfig
from dataset_builders.captions.llm import LlmCaptionConfig
from dataset_builders.captions.making import MakeConfig, make_captions
from shards.spool import SpoolInfo, open_spool, write_unit

# (questions under way, seconds of an answer): a laptop's model, a small server, a large one
SETTINGS = ((4, 0.5), (16, 1.0), (64, 2.0))
BAR = 0.9
CLASSES = {
    "cardiomegaly": "cardiomegaly",
    "effusion": "pleural effusion",
    "pneumonia": "pneumonia",
    "pneumothorax": "pneumothorax",
    "atelectasis": "atelectasis",
    "edema": "pulmonary edema",
    "nodule": "a pulmonary nodule",
    "fibrosis": "pulmonary fibrosis",
    "emphysema": "emphysema",
    "hernia": "a hiatal hernia",
    "mass": "a mediastinal mass",
    "fracture": "a rib fracture",
}
MOST_FINDINGS = 6  # of one subject
SENTENCES = (
    "Chest radiograph with {}.",
    "On this X-ray of the chest, {} can be seen.",
    "The plain film demonstrates {} in the thorax.",
    "Findings on the chest X-ray: {}.",
    "An X-ray image of the chest, read as {}.",
    "Radiography of the chest was performed and reveals {}.",
    "There is {} on this radiograph, which shows the chest.",
    "X-ray, chest: {}.",
)


@dataclass(slots=True)
class Flight:
    """Questions under way over time."""

    under_way: int = 0
    answered: int = 0
    integral: float = 0.0
    first: float = 0.0
    last: float = 0.0
    most: int = field(default=0)

    def change(self, by: int) -> None:
        """Count a question that came, or an answer that went."""
        now = time.perf_counter()
        self.first = self.first or now
        self.integral += self.under_way * (now - (self.last or now))
        self.last = now
        self.under_way += by
        self.answered += by < 0
        self.most = max(self.most, self.under_way)


def serve(pipe: Connection, latency_s: float) -> None:
    """Answer until the pipe says stop, then send what was counted. Runs in a process of its own."""
    asyncio.run(_serve(pipe, latency_s))


async def _serve(pipe: Connection, latency_s: float) -> None:
    flight = Flight()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head.lower())
                assert length is not None
                body = await reader.readexactly(int(length.group(1)))
                flight.change(1)
                data = answer(json.loads(body))
                await asyncio.sleep(latency_s)
                flight.change(-1)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                writer.write(f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=256)
    async with server:
        pipe.send(server.sockets[0].getsockname()[1])
        while not pipe.poll():
            await asyncio.sleep(0.05)
    pipe.send((flight.integral, flight.last - flight.first, flight.answered, flight.most))


def answer(body: dict[str, Any]) -> bytes:
    """Return the protocol's answer with captions that state what the question names."""
    question = str(body["messages"][-1]["content"])
    names = re.findall(r"Must state: (.*)", question)
    wanted = re.search(r"Write (\d+) captions", question)
    words = " and ".join(names)
    start = body["seed"] % len(SENTENCES)
    chosen = [
        SENTENCES[(start + n) % len(SENTENCES)].format(words) for n in range(int(wanted.group(1)) if wanted else 1)
    ]
    content = json.dumps({"captions": chosen})
    frame = {"id": "1", "object": "chat.completion", "model": "stub", "created": 1}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    usage = {"prompt_tokens": len(question) // 4, "completion_tokens": len(content) // 4}
    return json.dumps(frame | {"choices": [choice], "usage": usage}).encode()


def write_spool(path: Path, subjects: int) -> None:
    """Write a spool of one small sample for each of as many distinct facts."""
    subsets = [subset for size in range(1, MOST_FINDINGS + 1) for subset in itertools.combinations(CLASSES, size)]
    assert subjects <= len(subsets), f"at most {len(subsets)} subjects"
    tasks = {"chest": {"modality": "xray", "classes": CLASSES, "multi_label": True}}
    open_spool(path, SpoolInfo(source="stub", num_units=1, tasks=tasks))
    with write_unit(path, 0, "stub") as unit:
        for number, subset in enumerate(subsets[:subjects]):
            unit.add(
                Sample(
                    key=sample_key("stub", str(number)),
                    source="stub",
                    image=b"-",
                    captions=(Caption(text="-", origin="template"),),
                    modality=Modality.XRAY,
                    group=str(number),
                    license="CC0-1.0",
                    width=1,
                    height=1,
                    sha256=f"{number:064x}",
                    phash="0" * 16,
                    facts={"modality": "xray", "body_part": "chest", "chest": "|".join(subset)},
                )
            )


def measure(folder: Path, concurrency: int, latency_s: float, captions: int) -> dict[str, Any]:
    """Caption the setting's spool in the folder once; return the figures of one setting."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs, latency_s), daemon=True)
    server.start()
    endpoint = EndpointConfig(url=f"http://127.0.0.1:{ours.recv()}/v1", model="stub", concurrency=concurrency)
    config = MakeConfig(llm=LlmCaptionConfig(endpoint=endpoint), captions=captions)
    started, cpu = time.perf_counter(), time.process_time()
    report = make_captions(config, [folder / f"spool_{concurrency}"], folder / f"{concurrency}.sqlite", progress=False)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    ours.send("stop")
    integral, span, answered, most = ours.recv()
    server.join()
    assert report.pending == 0
    assert most <= concurrency
    return {
        "concurrency": concurrency,
        "latency_s": latency_s,
        "busy": round(integral / (concurrency * span), 4),
        "requests": answered,
        "requests_per_s": round(answered / span, 2),
        "captions_judged_per_s": round((report.accepted + sum(report.refused.values())) / span, 1),
        "accepted": report.accepted,
        "seconds": round(seconds, 2),
        "cpu_share": round(cpu / seconds, 3),
    }


def main() -> None:
    """Measure every setting, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=36, help="questions for each that is under way at a time")
    parser.add_argument("--captions", type=int, default=8)
    parser.add_argument("--save", type=Path, help="file that the JSON is written to as well")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for concurrency, latency_s in SETTINGS:
            write_spool(folder / f"spool_{concurrency}", concurrency * options.rounds)
            rows.append(measure(folder, concurrency, latency_s, options.captions))
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    result = {"name": "captions", "rounds": options.rounds, "captions": options.captions, "bar": BAR}
    result |= {"settings": rows, "least_busy": min(row["busy"] for row in rows)}
    if options.save:
        options.save.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
