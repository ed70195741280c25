"""`python -m mailrelay_monitor`."""

import os
import sys

from mailrelay_monitor.main import run

sys.exit(run(os.environ))
