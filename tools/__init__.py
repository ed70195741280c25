"""What helps to build the project and is no part of a relay.

1. `reference` writes the pages below docs/reference from the code (`make docs`).
2. `chart` writes what is generated of charts/mailrelay (`make docs`, too), and one file of all its
   objects (`make manifests`).
3. `observability` writes the dashboard and the alerts that the chart brings along (`make docs`).
"""
