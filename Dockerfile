# Build: docker build -t duplex .   Run with all that it needs: docker compose up -d (docs/compose.md)
FROM python:3.13-slim AS packages
WORKDIR /srv
COPY requirements/base.txt .
# A virtual environment without pip: the image can run packages and install none.
RUN python -m venv --without-pip /venv \
 && pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check \
    --root-user-action ignore --compile --require-hashes --requirement base.txt

FROM python:3.13-slim
WORKDIR /srv
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ENVIRONMENT=production \
    HOST=0.0.0.0 \
    PORT=8000 \
    LOG_FORMAT=json
COPY --from=packages /venv /venv
COPY pyproject.toml .
COPY alembic alembic
COPY web web
COPY app app
# The code is root's; var/ alone, where SQLite would be, is the service's.
RUN python -m compileall -q app alembic && install -d -o 10001 -g 10001 var
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["python", "-c", "\
import os, urllib.request; \
urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health/ready', timeout=2)"]
CMD ["python", "-m", "app", "serve"]
