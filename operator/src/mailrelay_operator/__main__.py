"""`python -m mailrelay_operator`."""

from __future__ import annotations

import os
import sys

from mailrelay_operator.main import run

if __name__ == "__main__":
    sys.exit(run(os.environ))
