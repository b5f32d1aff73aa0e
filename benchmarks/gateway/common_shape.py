# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportTypedDictNotRequiredAccess=false
"""The field's common shape: FastAPI, boto3, and StreamingResponse over InvokeEndpointWithResponseStream.

This is how samples and home-made gateways put OpenAI's API in front of SageMaker, written as well as the shape allows:
one client with a connection for each request, plain functions so that boto3 blocks threads and not the loop, as many
threads as streams, and no work on a chunk beyond what the job needs: the model's name and the answer's id are the
gateway's own. It runs in an environment of its own, under uvicorn with uvloop and httptools.

Environment: BENCHMARK_ENDPOINT and the AWS SDK's.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

import anyio.to_thread
import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict

THREADS = 512
ENDPOINT = os.environ.get("BENCHMARK_ENDPOINT", "endpoint-vllm")
runtime = boto3.client(
    "sagemaker-runtime",
    region_name=os.environ.get("AWS_REGION", "us-east-1"),
    config=Config(max_pool_connections=THREADS, retries={"max_attempts": 0}, read_timeout=490),
)


class Message(BaseModel):
    """One message; what else it has goes to the engine as it is."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[dict[str, Any]] | None = None


class ChatRequest(BaseModel):
    """What is read of a request; what else it has goes to the engine as it is."""

    model_config = ConfigDict(extra="allow")
    model: str
    messages: list[Message]
    stream: bool = False


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI):
    """Let as many requests wait for boto3 as come."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(ClientError)
def failed(_: Request, error: ClientError) -> Response:
    """Answer in OpenAI's shape."""
    body = {"message": str(error), "type": "upstream_error", "param": None, "code": error.response["Error"]["Code"]}
    return JSONResponse({"error": body}, status_code=502)


@app.get("/health")
def health() -> dict[str, str]:
    """Answer that it runs."""
    return {"status": "ok"}


@app.post("/v1/chat/completions")
def chat(request: ChatRequest) -> Response:
    """Ask the endpoint."""
    body = request.model_dump_json(exclude_unset=True).encode()
    identity = f"chatcmpl-{uuid.uuid4().hex}"
    if request.stream:
        answer = runtime.invoke_endpoint_with_response_stream(
            EndpointName=ENDPOINT, ContentType="application/json", Body=body
        )
        chunks = rewritten(answer["Body"], identity, request.model)
        return StreamingResponse(chunks, media_type="text/event-stream")
    answer = runtime.invoke_endpoint(EndpointName=ENDPOINT, ContentType="application/json", Body=body)
    whole = json.loads(answer["Body"].read())
    whole["id"], whole["model"] = identity, request.model
    return Response(json.dumps(whole, ensure_ascii=False), media_type="application/json")


def rewritten(stream: Any, identity: str, model: str) -> Iterator[bytes]:
    """Yield the engine's events under the gateway's names; they may be cut anywhere."""
    buffer = b""
    for event in stream:
        buffer += event["PayloadPart"]["Bytes"]
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data != b"[DONE]":
                chunk = json.loads(data)
                chunk["id"], chunk["model"] = identity, model
                data = json.dumps(chunk, ensure_ascii=False).encode()
            yield b"data: " + data + b"\n\n"
