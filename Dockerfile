# A node of RingMQ. The kernel is the host's: `ringmq check` inside says whether it will do.
#
#   docker build -t ringmq .
#   docker run --security-opt seccomp=packaging/seccomp.json --security-opt no-new-privileges --ulimit memlock=-1 \
#       --cap-drop ALL --network host -v ringmq-data:/var/lib/ringmq ringmq

FROM rust:1.90-slim-bookworm AS build
RUN apt-get update && apt-get install --no-install-recommends --yes gcc libc6-dev make pkg-config && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin ringmq && cp target/release/ringmq /usr/local/bin/ringmq

FROM debian:bookworm-slim
RUN useradd --system --uid 10911 --home-dir /var/lib/ringmq --create-home --shell /usr/sbin/nologin ringmq
COPY --from=build /usr/local/bin/ringmq /usr/local/bin/ringmq
USER ringmq
# An anonymous volume at the least: the layers of a container are no place for a log.
VOLUME /var/lib/ringmq
ENV RINGMQ_DATA=/var/lib/ringmq
# Shard i listens on 10911 + i; clients are told this address, so the ports must be the same outside.
EXPOSE 9876 10911-10926
STOPSIGNAL SIGTERM
ENTRYPOINT ["ringmq"]
CMD ["serve"]
