# One image for every role: Ray head, world hosts, learner, and the command line.
FROM python:3.11-slim-bookworm

# The default brings CUDA. For a small CPU image: --build-arg TORCH_INDEX=<URL of an index of CPU builds>.
ARG TORCH_INDEX=
ARG TORCH_VERSION=2.13.0

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    RAY_USAGE_STATS_ENABLED=0

WORKDIR /app
RUN pip install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} "torch==${TORCH_VERSION}"

COPY pyproject.toml README.md LICENSE ./
COPY world world
COPY learner learner
COPY actors actors
COPY cluster cluster
RUN pip install '.[crafter]'

RUN useradd --create-home worlds && mkdir /runs && chown worlds /runs
USER worlds
VOLUME /runs

ENTRYPOINT ["worlds"]
CMD ["--help"]
