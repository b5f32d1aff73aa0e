"""The fake as a model server: ``container.py --world FILE --model-dir DIR --port N``, as the emulator starts one."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.gateway.fake_aws import main

if __name__ == "__main__":
    main()
