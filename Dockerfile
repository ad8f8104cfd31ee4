# Two targets: `cpu` (the default) and `cuda`. Both hold the whole program; what runs is chosen by
# LONGTAKE_ROLE or --role. The `av` wheel inside links GPL libraries (x264, x265): an image that you
# hand to others is a combined work under the GPLv3, see NOTICE.

FROM python:3.12-slim-bookworm AS cpu

RUN apt-get update \
    && apt-get install -y --no-install-recommends redis-server \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 longtake \
    && mkdir /data && chown longtake /data

WORKDIR /app
# torch first and alone, from the index with builds for CPUs: it is the largest layer and changes least.
RUN pip install --no-cache-dir "torch==2.13.0" --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY kernels kernels
COPY models models
COPY engine engine
COPY server server
COPY clients/web clients/web
# Editable, so that weights and the page are found where they lie.
RUN pip install --no-cache-dir --editable .

USER longtake
ENV LONGTAKE_DATA_DIR=/data PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["python", "-m", "server"]

FROM python:3.12-slim-bookworm AS cuda

RUN apt-get update \
    && apt-get install -y --no-install-recommends redis-server gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 longtake \
    && mkdir /data && chown longtake /data

WORKDIR /app
# The default index has builds with CUDA, whose libraries come as wheels; gcc is for triton's launchers.
RUN pip install --no-cache-dir "torch==2.13.0" triton
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY kernels kernels
COPY models models
COPY engine engine
COPY server server
COPY clients/web clients/web
RUN pip install --no-cache-dir --editable .

USER longtake
ENV LONGTAKE_DATA_DIR=/data LONGTAKE_DEVICE=auto PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=300s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["python", "-m", "server"]
