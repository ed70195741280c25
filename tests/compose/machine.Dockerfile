# A Debian machine on the images' Python, with what the guide and the Makefile need: the tests of
# tests/compose/machine.py run it as a whole machine with systemd, tests/compose/suite.py as a place
# for the other tests.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends git make systemd \
    && rm -rf /var/lib/apt/lists/*
# Where a first `make nats-server` would put what it builds for minutes.
ENV XDG_CACHE_HOME=/var/cache
ARG NATS_SERVER_VERSION
COPY --from=mailrelay-nats /nats-server /var/cache/mailrelay/nats-server/${NATS_SERVER_VERSION}/nats-server
# As its first process wants it: the second version of cgroups, a tree of its own, to write in.
ENV container=docker
CMD ["sh", "-c", "umount --recursive /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec /usr/lib/systemd/systemd"]
