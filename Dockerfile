# burnish in a container; build_and_run.sh builds and runs it. DEVICE is cpu, or cuda for an NVIDIA GPU with the NVIDIA
# Container Toolkit.
ARG DEVICE=cpu
FROM python:3.11-slim AS base

# torch.compile writes C++ and compiles it. Debian's mirrors keep one version of it only, so none is named.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends g++ && \
    rm -rf /var/lib/apt/lists/*

# A home that any user can write: build_and_run.sh gives the container the user that called it.
RUN useradd --uid 1000 --create-home --home-dir /home/burnish burnish && \
    mkdir /results && \
    chmod 1777 /home/burnish /results

WORKDIR /opt/burnish

# As the Makefile does, in layers of their own: they stay when the source alone has changed.
RUN python -m venv .venv
RUN --mount=type=cache,target=/root/.cache \
    .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

FROM base AS cuda
COPY requirements-gpu.txt ./
RUN --mount=type=cache,target=/root/.cache \
    .venv/bin/uv pip install --python .venv/bin/python --quiet --no-deps --compile-bytecode -r requirements-gpu.txt
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# No GPU is seen, even where the container is given one.
FROM base AS cpu
COPY requirements.txt ./
RUN --mount=type=cache,target=/root/.cache \
    .venv/bin/uv pip install --python .venv/bin/python --quiet --no-deps --compile-bytecode -r requirements.txt
ENV CUDA_VISIBLE_DEVICES=

# hadolint ignore=DL3006
FROM ${DEVICE} AS burnish
WORKDIR /opt/burnish
COPY pyproject.toml requirements.in README.md LICENSE ./
COPY models models
COPY tasks tasks
COPY flows flows
RUN .venv/bin/uv pip install --python .venv/bin/python --quiet --no-deps --no-build-isolation --editable .
COPY container.sh ./

# LOGNAME: PyTorch asks for a name of the user, who may have none here.
ENV PATH=/opt/burnish/.venv/bin:$PATH \
    HOME=/home/burnish \
    LOGNAME=burnish \
    RESULTS=/results
USER 1000
VOLUME /results
EXPOSE 6006
ENTRYPOINT ["/opt/burnish/container.sh"]
CMD ["study", "densenet121-imagenet"]
