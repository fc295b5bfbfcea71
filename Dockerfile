# The web app: docker build -t captioner . && docker run --rm -p 127.0.0.1:8501:8501 captioner
FROM python:3.12-slim
RUN useradd --create-home captioner
WORKDIR /home/captioner/app
COPY requirements.txt pyproject.toml README.md LICENSE ./
RUN pip install --no-cache-dir -r requirements.txt
COPY captioner captioner
COPY app app
COPY docs/model-card.md docs/model-card.md
COPY examples examples
RUN pip install --no-cache-dir --no-deps -e .
USER captioner
# Inside a container, this machine alone would be nobody.
ENV STREAMLIT_SERVER_ADDRESS=0.0.0.0
EXPOSE 8501
HEALTHCHECK CMD python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:8501/_stcore/health')"
CMD ["captioner", "app"]
