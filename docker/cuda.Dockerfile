# ap2o on NVIDIA GPUs: docker build -f docker/cuda.Dockerfile -t ap2o:cuda .
# torch's wheel brings CUDA's libraries, and NVIDIA's container toolkit the driver: no CUDA base image is needed.
FROM python:3.12.11-slim-bookworm AS build
RUN python -m venv /opt/ap2o \
    && /opt/ap2o/bin/pip install --no-cache-dir torch==2.13.0
WORKDIR /source
COPY . .
RUN /opt/ap2o/bin/pip install --no-cache-dir '.[qlora,hub]'

FROM python:3.12.11-slim-bookworm
# Triton compiles its launchers with gcc. Versions are Debian's: its mirrors keep no older ones to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home ap2o \
    && mkdir /runs \
    && chown ap2o /runs
COPY --from=build /opt/ap2o /opt/ap2o
ENV PATH=/opt/ap2o/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /runs
HEALTHCHECK --interval=30m --timeout=2m --start-period=1m --retries=2 CMD ["ap2o", "doctor"]
ENTRYPOINT ["tini", "--", "ap2o"]
CMD ["--help"]
