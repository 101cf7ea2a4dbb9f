# The gateway as a container image:
#   docker build -t ttscale .
#   docker run -p 8080:8080 -v ./gateway.toml:/etc/tts/gateway.toml:ro ttscale
FROM python:3.12-slim AS build
COPY . /src
RUN python -m venv /opt/tts && /opt/tts/bin/pip install --no-cache-dir "/src[serve,otel,math,answers]"

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 tts
COPY --from=build /opt/tts /opt/tts
ENV PATH=/opt/tts/bin:$PATH PYTHONUNBUFFERED=1
USER tts
WORKDIR /home/tts
EXPOSE 8080
HEALTHCHECK CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/healthz')"]
ENTRYPOINT ["tts", "serve", "--host", "0.0.0.0", "--port", "8080"]
CMD ["/etc/tts/gateway.toml"]
