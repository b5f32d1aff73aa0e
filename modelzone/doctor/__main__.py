"""``python -m modelzone.doctor`` prints the tables of docs/doctor.md."""

import sys

from modelzone.doctor.preflight import permissions_markdown
from modelzone.doctor.signatures import signatures_markdown

if __name__ == "__main__":
    sys.stdout.write(f"{permissions_markdown()}\n{signatures_markdown()}")
