# syntax=docker/dockerfile:1
# The quick study in a container; see "In a container" in README.md.
ARG PYTHON_VERSION=3.12
FROM python:${PYTHON_VERSION}-slim

# tini passes a signal on to the command's whole process group, so that `docker stop` is like Ctrl-C.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*
STOPSIGNAL SIGINT

WORKDIR /modernize
ENV PATH=/modernize/.venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# What changes rarely comes first. torch's own index has its wheels for CPUs; if empty, they come from PyPI, with CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt pyproject.toml ./
RUN python -m venv .venv \
    && python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        >/tmp/requirements.txt \
    && PIP_EXTRA_INDEX_URL=$TORCH_INDEX pip install --constraint constraints.txt --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

# Setup finds the packages installed; --help keeps the study from starting. Any user may write data/ and runs/.
COPY . .
RUN ./run_all.sh quick --help \
    && install --directory --mode=1777 data runs \
    && useradd --create-home --uid 1000 researcher
USER 1000
# For `docker run --user` with a user that the image does not know
ENV USER=researcher MPLCONFIGDIR=/tmp/matplotlib

ENTRYPOINT ["tini", "-g", "--"]
CMD ["./run_all.sh"]
