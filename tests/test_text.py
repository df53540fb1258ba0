"""Text into windows: the protocol's details, and every way in which a text can be unusable."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantpress.engine import Engine
from quantpress.errors import TextError
from quantpress.text import chunks, conversations, passages, paths_of, read_text


@pytest.fixture(scope="module")
def engine(f32_gguf: Path) -> Iterator[Engine]:
    with Engine(f32_gguf, vocab_only=True) as engine:
        yield engine


@pytest.fixture(scope="module")
def prose(data: Path) -> Path:
    return data / "prose.txt"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_windows_follow_one_another_and_begin_with_bos(engine: Engine, prose: Path) -> None:
    windows = chunks(engine, [prose], 256)
    tokens = engine.tokenize(prose.read_text(encoding="utf-8").removesuffix("\n"))
    assert tokens[0] == engine.info.bos
    assert windows.shape == (len(tokens) // 256, 256)
    assert windows.dtype == np.int32
    assert (windows[:, 0] == engine.info.bos).all()
    assert np.array_equal(windows[:, 1:], tokens[: windows.size].reshape(-1, 256)[:, 1:])
    assert np.array_equal(chunks(engine, [prose], 256, limit=3), windows[:3])
    assert np.array_equal(chunks(engine, [prose], 256, limit=1000), windows)


def test_files_are_concatenated(engine: Engine, prose: Path, tmp_path: Path) -> None:
    text = prose.read_bytes()
    cut = text.index(b" ", 5000)  # in the middle of a sentence
    halves = [write(tmp_path / "a", text[:cut]), write(tmp_path / "b", text[cut:])]
    assert np.array_equal(chunks(engine, halves, 128), chunks(engine, [prose], 128))


def test_only_the_last_newline_is_dropped(engine: Engine, tmp_path: Path) -> None:
    bare, one, two = (write(tmp_path / str(i), "word " * 9 + "end" + "\n" * i) for i in range(3))
    count = len(engine.tokenize(bare.read_text()))
    assert np.array_equal(chunks(engine, [one], count), chunks(engine, [bare], count))
    assert len(engine.tokenize(two.read_text())) > count
    assert chunks(engine, [two], count + 1).shape == (1, count + 1)


def test_special_tokens_in_plain_text_are_only_text(engine: Engine, tmp_path: Path) -> None:
    windows = chunks(engine, [write(tmp_path / "a", "<eos>" * 20)], 32)
    assert engine.info.eos not in windows


def test_too_short_for_one_chunk(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "short.txt", "a few words")
    found = len(engine.tokenize("a few words"))
    with pytest.raises(TextError, match=rf"short\.txt: text: expected at least 512 tokens.*found {found} tokens"):
        chunks(engine, [path], 512)
    with pytest.raises(TextError, match=r"found 1 token\."):  # BOS
        chunks(engine, [write(tmp_path / "empty.txt", "")], 512)


def test_one_path_is_no_list_of_letters() -> None:
    assert paths_of("cal.txt") == paths_of(Path("cal.txt")) == paths_of(["cal.txt"]) == [Path("cal.txt")]
    assert paths_of(("a", Path("b"))) == [Path("a"), Path("b")]


@pytest.mark.parametrize(("context", "limit"), [(0, None), (512, 0), (-1, None)])
def test_chunks_of_nothing(engine: Engine, prose: Path, context: int, limit: int | None) -> None:
    with pytest.raises(TextError, match="at least one chunk"):
        chunks(engine, [prose], context, limit=limit)


def test_no_utf8_names_the_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "latin.txt", b"caf\xc3\xa9 " * 100 + b"caf\xe9")
    with pytest.raises(TextError, match=r"latin\.txt: text: expected UTF-8, found byte 0xe9 at offset 603"):
        read_text(path)


def test_unreadable_files(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(TextError, match="expected a readable file"):
            read_text(path)


def test_chat_renders_the_template_and_reads_its_special_tokens(engine: Engine, prose: Path) -> None:
    windows = chunks(engine, [prose], 256, chat=True)
    start, end = (int(engine.tokenize(text, add_special=False, parse_special=True)[0]) for text in _TURNS)
    talks = conversations(prose)
    assert (windows == start).sum() >= 2 * len(talks) - 2  # a user's and a model's turn each, less the dropped tail
    assert (windows == end).sum() >= 2 * len(talks) - 2
    bos = windows == engine.info.bos
    assert bos[:, 1:].sum() >= len(talks) - 3  # the template's own, which is not doubled
    assert not (bos[:, :-1] & bos[:, 1:]).any()
    first = engine.detokenize(windows[0, 1:200])
    assert first.startswith("user\n" + talks[0][0]["content"][:100])


_TURNS = ("<start_of_turn>", "<end_of_turn>")


def test_conversations_of_a_jsonl_file(engine: Engine, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I.\u2028You."}]
    line = json.dumps({"messages": talk}, ensure_ascii=False)
    path = write(tmp_path / "a.jsonl", f"{line}\n\n{line}\n")
    assert conversations(path) == [talk, talk]
    expected = "<bos><start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\nI.\u2028You.<end_of_turn>\n"
    tokens = engine.tokenize(expected, add_special=False, parse_special=True)
    assert np.array_equal(chunks(engine, [path], 2 * len(tokens), chat=True), [[*tokens, *tokens]])
    with pytest.raises(TextError, match=r"a\.jsonl: text: found conversations"):
        chunks(engine, [path], 8)


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "3", '{"messages": []}', '{"messages": ["a"]}', '{"messages": [{"role": "user"}]}', "[" * 100_000],
)
def test_lines_that_are_no_conversation(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "a.jsonl", '{"messages": [{"role": "user", "content": "x"}]}\n' + line)
    with pytest.raises(TextError, match=r"a\.jsonl: line 2: expected"):
        conversations(path)


def test_chat_without_a_template(f32_gguf: Path, prose: Path, tmp_path: Path) -> None:
    from quantpress import gguf

    model = tmp_path / "plain.gguf"
    with gguf.read(f32_gguf) as source:
        metadata = {key: value for key, value in source.metadata.items() if key != "tokenizer.chat_template"}
        specs = [gguf.TensorSpec(t.name, t.shape, t.type) for t in source.tensors.values()]
        with gguf.Writer(model, metadata, specs) as writer:
            for name in source.tensors:
                writer.write(name, 0, source.data(name))
    with Engine(model, vocab_only=True) as engine, pytest.raises(TextError, match=r"plain\.gguf.*chat_template.*none"):
        chunks(engine, [prose], 256, chat=True)


@given(st.lists(st.text("ab\n \t.", max_size=30)).map("\n\n".join))
def test_passages_keep_every_paragraph(text: str) -> None:
    groups = passages(text)
    paragraphs = [paragraph for group in groups for paragraph in group]
    assert "".join("".join(paragraphs).split()) == "".join(text.split())
    assert all(len(group) > 1 for group in groups) or len(paragraphs) <= 1


def test_passages_are_of_about_1500_characters(prose: Path) -> None:
    sizes = [sum(map(len, group)) for group in passages(prose.read_text(encoding="utf-8"))]
    assert all(size >= 1500 for size in sizes[:-1])
    assert np.median(sizes) < 4000
