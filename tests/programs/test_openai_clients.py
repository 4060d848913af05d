"""The OpenAI SDK and LangChain on a pool, unchanged but for their `http_client`: deaths of workers are hidden.

The SDK's own retries are off, so that only the pool can hide a failure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anyio
import httpx2
import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from limits import LIVENESS_LIMIT
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import SecretStr
from stage import Exchange, StageInThread, answering, stage_in_thread

from rumormill.client import Pool, SyncPool
from rumormill.client.keys import json_field

WORDS = ["one", " two", " three"]
MODEL = "tiny"
BASE = "http://embed/v1"
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "count"}]


async def serve(exchange: Exchange) -> None:
    """As much of an OpenAI-shaped server as the clients need."""
    asked = json.loads(exchange.seen.body)
    if exchange.seen.target == "/v1/embeddings":
        texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
        rows = [{"object": "embedding", "index": n, "embedding": [float(n), 1.0]} for n in range(len(texts))]
        await answer_json(exchange, {"object": "list", "data": rows, "model": MODEL, "usage": usage()})
    elif asked.get("stream"):
        await exchange.begin("text/event-stream")
        for word in WORDS:
            await exchange.part(event({"role": "assistant", "content": word}, None))
        await exchange.part(event({}, "stop") + b"data: [DONE]\n\n")
        await exchange.end()
    else:
        message = {"role": "assistant", "content": "".join(WORDS)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await answer_json(exchange, chat("chat.completion", choice) | {"usage": usage()})


def usage() -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}


def chat(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c1", "object": kind, "created": 1, "model": MODEL, "choices": [choice]}


def event(delta: dict[str, str], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps(chat("chat.completion.chunk", choice)).encode() + b"\n\n"


async def answer_json(exchange: Exchange, content: dict[str, Any]) -> None:
    await exchange.answer(json.dumps(content).encode(), "application/json")


async def part_and_death(exchange: Exchange) -> None:
    await exchange.begin("text/event-stream")
    await exchange.part(event({"role": "assistant", "content": WORDS[0]}, None))
    await exchange.die()


async def death(exchange: Exchange) -> None:
    await exchange.die()


@pytest.fixture
def scene() -> Iterator[StageInThread]:
    """Three workers. The owner of the key of `user-1` dies when it is asked."""
    with stage_in_thread() as scene:
        for worker in scene.scene.workers.values():
            worker.behaviour = serve
        yield scene


def test_the_sdk_is_served_while_workers_die(scene):
    first, second, third = scene.scene.owners("user-1")
    with SyncPool(scene.scene.urls, "embed", replay="always") as pool:
        transport = pool.transport(key=json_field("user"))
        http = httpx2.Client(transport=transport, timeout=LIVENESS_LIMIT)
        client = OpenAI(http_client=http, base_url=BASE, api_key="-", max_retries=0)
        with client:
            first.behaviour = death
            made = client.embeddings.create(model=MODEL, input=["a", "b"], user="user-1", encoding_format="float")
            assert [row.embedding for row in made.data] == [[0.0, 1.0], [1.0, 1.0]]
            assert (len(first.seen), len(second.seen)) == (1, 1)

            second.behaviour = answering(503)
            said = client.chat.completions.create(model=MODEL, messages=ASK, user="user-1")
            assert said.choices[0].message.content == "one two three"
            assert (len(second.seen), len(third.seen)) == (2, 1)

            with client.chat.completions.create(model=MODEL, messages=ASK, user="user-1", stream=True) as stream:
                assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "one two three"

            for worker in (first, second, third):
                worker.behaviour = part_and_death
            with (
                client.chat.completions.create(model=MODEL, messages=ASK, stream=True) as stream,
                pytest.raises(openai.APIConnectionError) as broken,
            ):
                list(stream)
            assert "failed in the middle of its answer" in str(broken.value.__cause__)

            for worker in (first, second, third):
                worker.behaviour = death
            with pytest.raises(openai.APIConnectionError) as caught:
                client.chat.completions.create(model=MODEL, messages=ASK)
            assert "no worker of service 'embed' answered POST /v1/chat/completions" in str(caught.value.__cause__)


def test_the_asynchronous_sdk_is_served_while_workers_die(scene):
    first, second, _ = scene.scene.owners("user-1")
    first.behaviour = death

    async def main() -> None:
        async with Pool(scene.scene.urls, "embed", replay="always") as pool:
            transport = pool.transport(key=json_field("user"))
            http = httpx2.AsyncClient(transport=transport, timeout=LIVENESS_LIMIT)
            async with AsyncOpenAI(http_client=http, base_url=BASE, api_key="-", max_retries=0) as client:
                stream = await client.chat.completions.create(model=MODEL, messages=ASK, user="user-1", stream=True)
                words = [chunk.choices[0].delta.content or "" async for chunk in stream]
                assert "".join(words) == "one two three"
                assert (len(first.seen), len(second.seen)) == (1, 1)
                said = await client.chat.completions.create(model=MODEL, messages=ASK, user="user-1")
                assert said.choices[0].message.content == "one two three"
                made = await client.embeddings.create(model=MODEL, input="a", encoding_format="float")
                assert made.data[0].embedding == [0.0, 1.0]

    anyio.run(main)


def test_langchain_is_served_while_workers_die(scene):
    first, second, _ = scene.scene.owners("user-1")
    first.behaviour = death
    key = {"Rumormill-Key": "user-1"}
    with (
        SyncPool(scene.scene.urls, "embed", replay="always") as pool,
        httpx2.Client(transport=pool.transport(), timeout=LIVENESS_LIMIT) as http,
    ):
        common: dict[str, Any] = {
            "base_url": BASE,
            "api_key": SecretStr("-"),
            "max_retries": 0,
            "http_client": http,
            "default_headers": key,
        }
        model = ChatOpenAI(model=MODEL, **common)
        assert model.invoke("count").content == "one two three"
        assert (len(first.seen), len(second.seen)) == (1, 1)
        assert "".join(str(chunk.content) for chunk in model.stream("count")) == "one two three"
        vectors = OpenAIEmbeddings(
            model=MODEL, check_embedding_ctx_length=False, model_kwargs={"encoding_format": "float"}, **common
        ).embed_documents(["a", "b"])
        assert vectors == [[0.0, 1.0], [1.0, 1.0]]


def test_langchain_on_asyncio_is_served_while_workers_die(scene):
    first, second, _ = scene.scene.owners("user-1")
    first.behaviour = death

    async def main() -> None:
        async with (
            Pool(scene.scene.urls, "embed", replay="always") as pool,
            httpx2.AsyncClient(transport=pool.transport(), timeout=LIVENESS_LIMIT) as http,
        ):
            model = ChatOpenAI(
                model=MODEL,
                base_url=BASE,
                api_key=SecretStr("-"),
                max_retries=0,
                http_async_client=http,
                default_headers={"Rumormill-Key": "user-1"},
            )
            assert (await model.ainvoke("count")).content == "one two three"
            assert (len(first.seen), len(second.seen)) == (1, 1)
            words = [str(chunk.content) async for chunk in model.astream("count")]
            assert "".join(words) == "one two three"

    anyio.run(main)
