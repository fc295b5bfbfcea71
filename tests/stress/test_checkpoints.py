"""Checkpoints that are damaged, absurd or hostile: refused in one line, and nothing in them is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from captioner.checkpoint import load_checkpoint, load_training_state, save_checkpoint
from captioner.checkpoint_files import CONFIG, TRAINING, VOCABULARY, WEIGHTS
from captioner.config import EncoderConfig
from captioner.errors import CaptionerError, CheckpointError
from captioner.models.encoder import ImageEncoder
from captioner.pipeline import Captioner
from captioner.vocabulary import Vocabulary
from tests.batch.conftest import save_tiny
from tests.conftest import noise_photo
from tests.stress.hostile import NONE, TABLE, memory_limit, mutant, said, set_in

Effort = Callable[[int, int], int]
Tally = Callable[[str], None]
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded as Linux has it")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a state to resume from."""
    folder = save_tiny(tmp_path_factory.mktemp("whole") / "c", 0)
    model, vocabulary = load_checkpoint(folder)
    state = {"optimizer": {"state": {0: torch.ones(9)}, "param_groups": [{"lr": 0.1}]}, "progress": {"step": 3}}
    save_checkpoint(folder, model, vocabulary, training_state=state, notes={"recipe": {}})
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path, whole: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "c"))


def refusal(folder: Path) -> str:
    """Why a checkpoint is not loaded; "" if it is. What else comes of it than one line and a model is a failure."""
    line = said(lambda: load_checkpoint(folder))
    if line:
        assert any(name in line for name in (CONFIG, VOCABULARY, WEIGHTS)), line
        return line
    model, vocabulary = load_checkpoint(folder)
    assert len(vocabulary) == model.config.vocabulary_size
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
    return ""


def places(content: bytes, count: int, draw: random.Random) -> set[int]:
    ends = {0, 1, 7, 8, 9, len(content) // 2, len(content) - 2, len(content) - 1}
    return {place for place in ends if 0 <= place < len(content)} | {draw.randrange(len(content)) for _ in range(count)}


def test_a_file_cut_anywhere_is_refused(checkpoint: Path, effort: Effort, tally: Tally) -> None:
    draw, cases = random.Random(0), 0
    for name in (CONFIG, VOCABULARY, WEIGHTS, TRAINING):
        path = checkpoint / name
        content = path.read_bytes()
        for place in places(content, effort(6, 250), draw):
            path.write_bytes(content[:place])
            cases += 1
            if name == TRAINING:
                with pytest.raises(CheckpointError, match=TRAINING):
                    load_training_state(checkpoint)
            elif content[:place].rstrip() != content.rstrip():
                assert name in refusal(checkpoint)
        path.write_bytes(content)
    assert not refusal(checkpoint)
    tally(f"checkpoint files cut short: {cases} cuts, all refused by the file's name")


@linux
def test_mutants_are_refused_or_whole_models(checkpoint: Path, effort: Effort, tally: Tally) -> None:
    draw, outcomes = random.Random(1), Counter[str]()
    header = 8 + struct.unpack("<Q", (checkpoint / WEIGHTS).read_bytes()[:8])[0]
    with memory_limit():
        for name, count in ((CONFIG, 60), (VOCABULARY, 30), (WEIGHTS, 60), (TRAINING, 60)):
            path = checkpoint / name
            content = path.read_bytes()
            # What can be wrong with weights is in their header; among the numbers only a few mutants.
            head = header if name == WEIGHTS else len(content)
            for number in range(effort(count, 30 * count)):
                part = content[:head] if number % 8 else content
                path.write_bytes(mutant(part, draw) + content[len(part) :])
                if name != TRAINING:
                    outcomes["refused" if refusal(checkpoint) else "loaded whole"] += 1
                    continue
                line = said(partial(load_training_state, checkpoint))
                assert not line or TRAINING in line
                outcomes["refused" if line else "loaded whole"] += 1
            path.write_bytes(content)
    assert outcomes["refused"] > outcomes["loaded whole"] > 0
    tally(f"checkpoint mutants: {outcomes.total()}, {dict(outcomes)}, within 1 GB, no other error")


HUGE: list[Any] = [10**9, 2**62, 10**30, 10**4000, 0, -1, True, 1.5, "12", [], {}, float("nan"), float("inf")]
ABSURD: list[tuple[Any, ...]] = [
    *(("model", "decoder", name, value) for name in ("hidden_dim", "embedding_dim", "attention_dim") for value in HUGE),
    *(("model", "decoder", name, 16384) for name in ("hidden_dim", "embedding_dim", "attention_dim")),
    *(("model", "vocabulary_size", value) for value in HUGE),
    *(("model", "encoder", name, value) for name in ("grid", "input_size") for value in HUGE),
    *(("model", "decoder", "dropout", value) for value in (10**400, float("nan"), 1, "0")),
    *(("model", "decoder", "attention", value) for value in ("sharp", 1, NONE, TABLE, ["soft"])),
    *(("model", "encoder", "name", value) for value in ("", "resnet18", "vit_b_16", "no such", "\ud800", "a\0b", 1)),
    *(
        ("model", "encoder", "name", f"timm:{name}")
        for name in ("hf-hub:a/b", "local-dir:/etc", "coat_tiny", "x" * 9999)
    ),
    ("model", "encoder", "name", "timm:convnext_xxlarge"),
    *(("model", value) for value in (None, NONE, 3, "x", TABLE)),
    *(("format", value) for value in (None, 0, 2, "1", NONE, 10**4000)),
    *(("vocabulary_sha256", value) for value in ("0" * 64, 5, NONE)),
    ("model", "unknown", 1),
    ("model", "decoder", {"hidden_dim": 16} | {f"unknown{n}": n for n in range(9999)}),
]
TEXTS = {
    "empty": b"",
    "no object": b"[]",
    "null": b"null",
    "deep": b"[" * 100_000,
    "deep notes": b'{"format": 1, "notes": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "digits": b'{"format": ' + b"9" * 10_000 + b"}",
    "twice": b'{"format": 1, "format": 1, "model": {}}',
    "mark": b"\xef\xbb\xbf{}",
    "utf-16": '{"format": 1}'.encode("utf-16"),
    "latin-1": b'{"format": "\xe4"}',
    "zeros": b"\0" * 100,
}


@linux
def test_an_absurd_configuration_is_refused_without_taking_memory(checkpoint: Path, tally: Tally) -> None:
    path, cases = checkpoint / CONFIG, 0
    config = json.loads(path.read_text())
    sys.set_int_max_str_digits(0)
    try:
        texts = [json.dumps(set_in(config, *change)).encode() for change in ABSURD] + list(TEXTS.values())
    finally:
        sys.set_int_max_str_digits(4300)
    with memory_limit():
        for text in texts:
            path.write_bytes(text)
            assert refusal(checkpoint), text[:500]
            cases += 1
    tally(f"absurd config.json: {cases} files, all refused within 1 GB")


@linux
def test_an_absurd_vocabulary_is_refused(checkpoint: Path, tally: Tally) -> None:
    path = checkpoint / VOCABULARY
    words = json.loads(path.read_text())
    texts = [
        json.dumps(value).encode() for value in (words[::-1], words[:-1], [*words[:-1], words[4]], dict.fromkeys(words))
    ]
    texts += [json.dumps([*words[:-1], value]).encode() for value in (5, None, ["a"], "\ud800", "\udcff")]
    texts += [json.dumps([*words[:5], words[6], words[5], *words[7:]]).encode(), *TEXTS.values()]
    with memory_limit():
        for text in texts:
            path.write_bytes(text)
            assert VOCABULARY in refusal(checkpoint), text[:500]
    tally(f"absurd vocabulary.json: {len(texts)} files, all refused")


def test_the_words_of_another_model_are_told_by_their_hash(checkpoint: Path) -> None:
    _, vocabulary = load_checkpoint(checkpoint)
    Vocabulary([*vocabulary.words[5:], vocabulary.words[4]]).save(checkpoint / VOCABULARY)
    assert "not the words that config.json was written with" in refusal(checkpoint)
    # A checkpoint that is older than the hash cannot know.
    config = json.loads((checkpoint / CONFIG).read_text())
    (checkpoint / CONFIG).write_text(json.dumps(set_in(config, "vocabulary_sha256", None)))
    assert not refusal(checkpoint)


def header_of(content: bytes) -> tuple[str, bytes]:
    length = struct.unpack("<Q", content[:8])[0]
    return content[8 : 8 + length].decode(), content[8 + length :]


@linux
def test_weights_of_other_kinds_are_refused_by_the_tensors_name(checkpoint: Path, tally: Tally) -> None:
    path = checkpoint / WEIGHTS
    content = path.read_bytes()
    weights = safetensors.torch.load(content)
    name = "decoder.embedding.weight"
    own = weights[name]
    wrong = {
        "absent": None,
        "other shape": own.T.contiguous(),
        "scalar": own[0, 0].clone(),
        "empty": own[:0].contiguous(),
        "int8": own.to(torch.int8),
        "int64": own.to(torch.int64),
        "bool": own.to(torch.bool),
        "not a number": own.clone().index_fill_(0, torch.tensor(3), float("nan")),
        "infinite": own.clone().index_fill_(1, torch.tensor(2), float("-inf")),
        "too large for float32": torch.full_like(own, 1e300, dtype=torch.float64),
        "infinite in half precision": torch.full_like(own, float("inf"), dtype=torch.float16),
    }
    with memory_limit():
        for kind, tensor in wrong.items():
            changed = (
                {**weights, name: tensor} if tensor is not None else {k: v for k, v in weights.items() if k != name}
            )
            saved = safetensors.torch.save(changed)
            path.write_bytes(saved)
            assert name in refusal(checkpoint), kind
            if kind == "int64":  # complex numbers, which older versions of safetensors do not write, are as long
                path.write_bytes(saved.replace(b'"I64"', b'"C64"'))
                assert WEIGHTS in refusal(checkpoint)
        for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.float32):
            path.write_bytes(safetensors.torch.save({**weights, name: own.to(dtype)}))
            assert not refusal(checkpoint), dtype
        path.write_bytes(safetensors.torch.save({**weights, "a" * 5000: own.clone()}))
        assert "tensors too many" in refusal(checkpoint)
        header, numbers = header_of(content)
        first = header.index('"decoder')
        entry = header[first : header.index("}", first) + 1]
        headers = {
            "twice": header.replace(entry, f"{entry},{entry}"),
            "huge": header.replace('"data_offsets":[0,', '"data_offsets":[9223372036854775807,'),
            "huge shape": header.replace('"shape":[', '"shape":[4611686018427387904,', 1),
            "no type": header.replace('"F32"', '"F99"', 1),
            "deep": "[" * 50_000,
            "empty": "",
        }
        for kind, text in headers.items():
            assert text != header, kind
            path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + numbers)
            assert WEIGHTS in refusal(checkpoint) or kind == "twice", kind
        for length in (0, 2**31, 2**63, 2**64 - 1):
            path.write_bytes(struct.pack("<Q", length) + content[8:])
            assert WEIGHTS in refusal(checkpoint), length
    tally(
        f"weights of other shapes, types and headers: {len(wrong) + len(headers) + 5}, all refused; 4 float types read"
    )


def test_finite_weights_of_any_size_give_a_caption_or_a_clear_error(
    checkpoint: Path, effort: Effort, tally: Tally
) -> None:
    draw, outcomes = random.Random(2), Counter[str]()
    weights = safetensors.torch.load_file(checkpoint / WEIGHTS)
    floating = [name for name, tensor in weights.items() if tensor.is_floating_point()]
    for _ in range(effort(6, 150)):
        changed = dict(weights)
        for name in draw.sample(floating, draw.choice((1, 3, len(floating)))):
            changed[name] = weights[name].sign() * draw.choice((0.0, 1e-38, 1e4, 1e19, 3e38))
        (checkpoint / WEIGHTS).write_bytes(safetensors.torch.save(changed))
        line = said(lambda: Captioner.load(checkpoint, "cpu", "float32").caption(noise_photo(0)))
        outcomes["refused" if line else "captioned"] += 1
    assert outcomes["captioned"]
    tally(f"models of absurd finite weights: {outcomes.total()}, {dict(outcomes)}")


class Payload:
    """What runs when a pickle is trusted."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_nothing_in_a_pickle_is_run(checkpoint: Path, tmp_path: Path, tally: Tally) -> None:
    mark = tmp_path / "run"
    calls = [
        Payload(os.system, f"touch {mark}"),
        Payload(exec, f"open({str(mark)!r}, 'w').close()"),
        Payload(os.mkdir, str(mark)),
        Payload(shutil.copy, str(checkpoint / CONFIG), str(mark)),
    ]
    cases = 0
    for call in calls:
        for content in ({"progress": call}, {"optimizer": [call], "w": torch.ones(2)}, call):
            for path in (checkpoint / TRAINING, tmp_path / "weights.pth", tmp_path / "weights.pt"):
                for form in ("zip", "legacy", "pickle"):
                    if form == "pickle":
                        path.write_bytes(pickle.dumps(content))
                    else:
                        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
                    config = EncoderConfig("squeezenet1_1", weights=str(path), input_size=64)
                    state = path.name == TRAINING
                    line = said(
                        partial(load_training_state, checkpoint) if state else partial(ImageEncoder.pretrained, config)
                    )
                    assert path.name in line
                    assert "weights_only" not in line, "torch's advice to trust the file"
                    assert not mark.exists()
                    cases += 1
    # The payload is a live one: whoever trusts the file runs it.
    pickle.loads(path.read_bytes())
    assert mark.exists()
    tally(f"pickles with a payload: {cases}, all refused, none run")


def test_weights_of_an_encoder_in_other_kinds_are_refused(tmp_path: Path) -> None:
    config = EncoderConfig("squeezenet1_1", weights="none", input_size=64)
    state = ImageEncoder(config).network.state_dict()
    path, name = tmp_path / "w.pth", next(iter(state))
    own = state[name]
    kinds: list[Any] = [1, "x", None, [own], own[0], own.to(torch.int32), own.to(torch.complex64), own.to_sparse()]
    kinds += [torch.full_like(own, float("nan")), own.to("meta"), torch.zeros(1).expand(10**12)]
    for kind in kinds:
        torch.save({**state, name: kind}, path)
        with pytest.raises(CaptionerError, match=r"w\.pth.*features"):
            ImageEncoder.pretrained(EncoderConfig("squeezenet1_1", weights=str(path), input_size=64))
    wholes: list[Any] = [[], 3, own, {1: own}]
    for whole in wholes:
        torch.save(whole, path)
        with pytest.raises(CaptionerError, match=r"w\.pth"):
            ImageEncoder.pretrained(EncoderConfig("squeezenet1_1", weights=str(path), input_size=64))
    more: dict[Any, Any] = {5: "what else is in a classifier's file"}
    torch.save({**state, **more}, path)
    ImageEncoder.pretrained(EncoderConfig("squeezenet1_1", weights=str(path), input_size=64))


@linux
def test_a_packed_bomb_is_not_unpacked(checkpoint: Path) -> None:
    packed = io.BytesIO()
    torch.save({"w": torch.zeros(1000)}, packed)
    with zipfile.ZipFile(packed) as small, zipfile.ZipFile(checkpoint / TRAINING, "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in small.namelist():
            with bomb.open(entry, "w") as file:
                file.write(small.read(entry))
                for _ in range(32 if "/data/" in entry else 0):
                    file.write(bytes(1 << 20))
    with memory_limit(1 << 24), pytest.raises(CheckpointError, match="larger once unpacked"):
        load_training_state(checkpoint)


@pytest.mark.parametrize("name", [CONFIG, VOCABULARY, WEIGHTS, TRAINING])
def test_what_is_no_file_is_not_waited_for(checkpoint: Path, name: str) -> None:
    path = checkpoint / name
    path.unlink()
    path.mkdir()
    cases: list[Callable[[], object]] = [path.rmdir, path.unlink, path.unlink]
    makers: list[Callable[[], object]] = [lambda: os.mkfifo(path), lambda: path.symlink_to(path), lambda: None]
    for clear, make in zip(cases, makers, strict=True):
        assert name in said(partial(load_training_state if name == TRAINING else load_checkpoint, checkpoint))
        clear()
        make()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(checkpoint: Path) -> None:
    (checkpoint / WEIGHTS).chmod(0)
    assert WEIGHTS in refusal(checkpoint)
