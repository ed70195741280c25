"""`python -m mailrelay_sender`: started by the supervisor or a pod, not by people."""

import os
import sys

from mailrelay_sender.main import main

sys.exit(main(os.environ))
