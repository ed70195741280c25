"""`python -m mailrelay_ingress`: started by the supervisor or a pod, not by people."""

import os
import sys

from mailrelay_ingress.main import main

sys.exit(main(os.environ))
