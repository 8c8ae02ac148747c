# The project with all that it needs, for machines with a container runtime (and kubernetes/sweep.yaml).
#
#     docker build -t transfer .
#     docker run --rm -v "$PWD/results:/transfer/results" transfer transfer-study sweep studies/demo.yaml
#     docker run --rm --gpus all --shm-size 8g -v /path/to/images:/images ... transfer transfer-study sweep ...
#
# Debian 12 brings Python 3.11, and FFCV is compiled against its OpenCV. torch brings CUDA; the driver is the
# machine's (NVIDIA's container toolkit).
FROM debian:12-slim

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# KubeRay asks by wget whether Ray is alive.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /transfer
# What is installed changes less often than the code: this layer stays while only code changes. The packages
# that pyproject.toml lists have to be there, empty or not.
COPY setup.sh requirements.txt pyproject.toml ./
ENV PIP_NO_CACHE_DIR=1
RUN mkdir -p study/images study/models study/objectives study/store jobs analysis/exhibits \
    && sh setup.sh /opt/transfer \
    && rm -rf /var/lib/apt/lists/*
COPY . .

# A login shell, as KubeRay starts Ray in, sets PATH anew.
# hadolint ignore=SC2016
RUN echo 'PATH=/opt/transfer/bin:$PATH' > /etc/profile.d/transfer.sh
ENV PATH=/opt/transfer/bin:$PATH
CMD ["transfer-study", "--help"]
