# The service of serve.py in a container:
#     docker build -t video-action-recognition .                                      for processors
#     docker build -t video-action-recognition --build-arg TORCH_BACKEND=cu130 .      for NVIDIA GPUs; run with --gpus all
#     docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/run:/app/run:ro" video-action-recognition r3d_18-ucf101-000
FROM python:3.11-slim
ARG TORCH_BACKEND=cpu
WORKDIR /app

# The pinned versions that serving needs. OpenCV without windows, because a slim image lacks their libraries.
COPY requirements.txt .
RUN grep -E '^(torch|torchvision|opencv-python|av|numpy|tqdm|tensorboardX)==' requirements.txt > serving.txt \
    && grep -E '^(onnxruntime|safetensors|fastapi|uvicorn|python-multipart)==' requirements.txt >> serving.txt \
    && sed -i 's/^opencv-python=/opencv-python-headless=/' serving.txt
# uv finds PyTorch's CPU-only builds, which are much smaller than the usual ones.
RUN pip install --no-cache-dir uv==0.13.8 && \
    uv pip install --system --no-cache --torch-backend="$TORCH_BACKEND" -r serving.txt

COPY . .
RUN useradd --create-home serve
USER serve
EXPOSE 8000
# At the port that the last --port of the running command names.
HEALTHCHECK --start-period=60s --interval=30s --timeout=10s \
    CMD ["python", "-c", "import re, urllib.request as u; port = re.findall('--port[=\\0]([0-9]+)', open('/proc/1/cmdline').read())[-1]; u.urlopen('http://127.0.0.1:' + port + '/health', timeout=5)"]
ENTRYPOINT ["python", "serve.py", "--host", "0.0.0.0", "--port", "8000"]
