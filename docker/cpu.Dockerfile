# ap2o on a CPU: docker build -f docker/cpu.Dockerfile -t ap2o:cpu .
FROM python:3.12.11-slim-bookworm AS build
RUN python -m venv /opt/ap2o \
    && /opt/ap2o/bin/pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
WORKDIR /source
COPY . .
RUN /opt/ap2o/bin/pip install --no-cache-dir .

FROM python:3.12.11-slim-bookworm
# Versions are Debian's of the base image's release: its mirrors keep no older ones to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home ap2o \
    && mkdir /runs \
    && chown ap2o /runs
COPY --from=build /opt/ap2o /opt/ap2o
ENV PATH=/opt/ap2o/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 1000
WORKDIR /runs
HEALTHCHECK --interval=30m --timeout=2m --start-period=1m --retries=2 CMD ["ap2o", "doctor"]
ENTRYPOINT ["tini", "--", "ap2o"]
CMD ["--help"]
