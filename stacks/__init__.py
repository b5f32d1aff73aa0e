"""Stacks: one file each. They compose constructs and own no logic.

``constructs/`` is a source root beside this package and cannot be a package itself: its name is taken by the PyPI
package that aws-cdk-lib imports. Appending it here lets ``cdk deploy`` run without an installation step.
"""

import sys
from pathlib import Path

_SOURCE_ROOT = str(Path(__file__).resolve().parent.parent / "constructs")
if _SOURCE_ROOT not in sys.path:
    sys.path.append(_SOURCE_ROOT)
