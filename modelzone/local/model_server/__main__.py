"""Start the model server as the container's entrypoint does.

`python -m modelzone.local.model_server --model-dir DIR --port PORT`, with the container's environment (`HF_MODEL_ID`,
`MAX_BATCH_SIZE`, ...). DIR holds a compiled artifact and stands in for `/opt/ml/model`. It listens on 127.0.0.1 only.
`MODELZONE_LOCAL_TOKEN_DELAY_MS` delays every token, to make streaming visible.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from modelzone.errors import ModelzoneError
from modelzone.local.model_server.settings import ServerSettings, read_settings

_GRACE_SECONDS = 3


def main() -> int:
    """Check the environment, load the model and serve until SIGTERM; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m modelzone.local.model_server", description="TGI 2.1.1's stand-in")
    parser.add_argument("--model-dir", type=Path, required=True, help="folder of the compiled artifact")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        _serve(read_settings(os.environ, arguments.model_dir), folder=arguments.model_dir, port=arguments.port)
    except ModelzoneError as error:
        print(error, file=sys.stderr)  # noqa: T201 (the container's message, as it is)
        return 1
    return 0


def _serve(settings: ServerSettings, *, folder: Path, port: int) -> None:
    # The matrices are small: threads of the linear algebra library cost memory and gain nothing.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import uvicorn  # noqa: PLC0415 (a refusal needs none of this)

    from modelzone.local.model_server.app import create_app  # noqa: PLC0415

    uvicorn.run(
        create_app(settings=settings, folder=folder),
        host="127.0.0.1",
        port=port,
        loop="asyncio",
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


def _exit(_number: int, _frame: FrameType | None) -> None:
    """Stop with status 0; uvicorn shuts down first and then hands the signal on to this handler."""
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
