"""The calls in a model.py that are worth a word: requests to models, downloads, files that are opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

REQUEST: Final = ("request_id", "correlation_id", "inputs", "requested_output_names", "model_name", "model_version")
"""The parameters of `InferenceRequest` in their order."""

SENDS: Final = frozenset(["exec", "async_exec"])
"""Its methods that send it."""

DOWNLOADS: Final[Mapping[str, Literal["any", "url", "hub"]]] = {
    "*.from_pretrained": "hub",
    "transformers.pipeline": "hub",
    "sentence_transformers.SentenceTransformer": "hub",
    "sentence_transformers.CrossEncoder": "hub",
    "huggingface_hub.hf_hub_download": "any",
    "huggingface_hub.snapshot_download": "any",
    "datasets.load_dataset": "hub",
    "torch.hub.load": "any",
    "torch.hub.download_url_to_file": "any",
    "torch.hub.load_state_dict_from_url": "any",
    "tensorflow_hub.load": "url",
    "whisper.load_model": "hub",
    "nltk.download": "any",
    "spacy.cli.download": "any",
    "gdown.download": "any",
    "wget.download": "any",
    "requests.get": "any",
    "requests.post": "any",
    "httpx.get": "any",
    "urllib.request.urlopen": "any",
    "urllib.request.urlretrieve": "any",
    "boto3.client": "any",
    "boto3.resource": "any",
    "google.cloud.storage.Client": "any",
}
"""What takes something from a network: always, or when its first argument is a URL, or the name of a model on a hub."""

SUBJECTS: Final = frozenset(["pretrained_model_name_or_path", "repo_id", "model", "url", "model_name_or_path", "path"])
"""The names of that argument."""

PATTERNS: Final = {
    "url": re.compile(r"(?i)(https?|ftp|s3|gs)://"),
    "hub": re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?$"),
}

OPENS: Final = frozenset(
    [
        *("open", "io.open", "numpy.load", "numpy.loadtxt", "numpy.genfromtxt", "torch.load", "torch.jit.load"),
        *("joblib.load", "pandas.read_csv", "pandas.read_json", "pandas.read_parquet", "pandas.read_pickle"),
        *("onnxruntime.InferenceSession", "PIL.Image.open", "cv2.imread", "onnx.load"),
    ]
)
"""What opens the file that its first argument names."""

CUDA: Final = re.compile(r"cuda(:\d+)?$")
DEVICES: Final = re.compile(r"(?i)cuda|gpu|device|cupy|dlpack|model_instance_kind|tensorrt|onnxruntime|jax")
"""What names and texts have in them where a program has to do with GPUs; longer texts than `LONG` are prose."""
LONG: Final = 200
