"""The generate stage on the tiny model: rows, counts, shards, going on after a stop, and every
refusal.
"""

import http.server
import json
import shutil
import threading
import time
from pathlib import Path

import pytest

import mlalign
from mlalign.core import rows, schema, shards, stage
from mlalign.core.errors import UserError
from mlalign.core.store import Store, Tally
from mlalign.stages import generate

TINY = Path(mlalign.__file__).parent / "data" / "tiny"
LANGUAGES = ("eng_Latn", "swh_Latn")


def prompt_row(text: str, key: str, language: str, split: str = "train", **more) -> dict:
    common = {
        "id": rows.row_id("test", key, language),
        "group_id": key,
        "prompt_lang": language,
        "source": "test",
        "origin": "synthetic",
        "split": split,
    }
    return {**common, "prompt": rows.messages(text), **more}


@pytest.fixture
def source(tmp_path) -> Path:
    """Two languages, two shards of four prompts each, and one more prompt to evaluate on."""
    with rows.ShardWriter(tmp_path / "source", "prompt", shard_rows=4) as writer:
        for language in LANGUAGES:
            for i in range(8):
                writer.write(
                    prompt_row(
                        f"What is {i} + {i + 1}?",
                        str(i),
                        language,
                        reference=rows.to_json(2 * i + 1),
                    )
                )
            writer.write(prompt_row("What is 2 + 2?", "e", language, split="eval"))
    return tmp_path / "source"


def config(**values) -> generate.Config:
    return schema.build(
        generate.Config,
        {
            "engine": {"name": "transformers"},
            "max_tokens": 16,
            "temperature": 1.5,
            "split": "train",
            **values,
        },
        "c",
    )


class StopAfter(stage.Output):
    """Asks the stage to stop once so many shards are there."""

    n_shards = 1

    def progress(self, *args, **kwargs):
        super().progress(*args, **kwargs)
        if len(list((self.path / "shards").glob("*.json"))) == self.n_shards:
            (self.path / "STOP").touch()


def generated(
    cfg: generate.Config,
    source: Path,
    root: Path,
    model: Path = TINY,
    part: tuple[int, int] = (0, 1),
    kind=stage.Output,
) -> stage.Output:
    store, partial = Store(root), root / "generate-test.partial"
    partial.mkdir(parents=True, exist_ok=True)
    out = kind(partial, store, "candidates", part)
    generate.run(
        cfg,
        stage.Inputs(store, {"rows": {"path": str(source)}, "model": {"path": str(model)}}),
        out,
    )
    return out


def content(out: stage.Output) -> dict[str, list[dict]]:
    return {p.name: rows.read_shard(p) for p in rows.shards(out.path)}


@pytest.mark.slow
def test_candidates_carry_ids_counts_and_references(source, tmp_path):
    out = generated(config(n=3), source, tmp_path / "store")
    found = list(rows.read(out.path))
    assert rows.kind_of(out.path) == "candidates"
    assert [p.name for p in rows.shards(out.path)] == [p.name for p in rows.shards(source, "train")]
    assert [r["id"] for r in found] == [r["id"] for r in rows.read(source, "train")]
    sampler = out.notes["sampler"]["fingerprint"]
    for row in found:
        assert [r["candidate_id"] for r in row["responses"]] == [
            rows.candidate_id(row["id"], sampler, i) for i in range(3)
        ]
        assert row["response_lang_requested"] == row["prompt_lang"]
        assert row["reference"] is not None
    responses = [r for row in found for r in row["responses"]]
    counts = out.tally.to_dict()
    assert counts["rows"] == {"eng_Latn": 8, "swh_Latn": 8}
    assert counts["sums"]["responses"] == {"eng_Latn": 24, "swh_Latn": 24}
    assert sum(counts["sums"]["tokens"].values()) == sum(r["n_tokens"] for r in responses)
    assert sum(counts["sums"]["truncated"].values()) == sum(
        r["finish_reason"] == "length" for r in responses
    )
    assert out.notes["sampler"]["seed_guarantee"] is False
    assert json.loads((out.path / "progress.json").read_text())["done"] == 16


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_equals_the_unbroken_one(source, tmp_path):
    whole = generated(config(n=2), source, tmp_path / "whole")
    with pytest.raises(stage.Stopped):
        generated(config(n=2), source, tmp_path / "broken", kind=StopAfter)
    partial = tmp_path / "broken" / "generate-test.partial"
    assert len(shards.pending(rows.shards(source, "train"), partial)) == 3
    (partial / "STOP").unlink()
    out = generated(config(n=2), source, tmp_path / "broken")
    assert content(out) == content(whole)
    assert out.tally.to_dict() == whole.tally.to_dict()


@pytest.mark.slow
def test_array_tasks_share_the_shards(source, tmp_path):
    whole = generated(config(n=2), source, tmp_path / "whole")
    first = generated(config(n=2), source, tmp_path / "parts", part=(0, 2))
    assert len(rows.shards(first.path)) == 2
    last = generated(config(n=2), source, tmp_path / "parts", part=(1, 2))
    assert content(last) == content(whole)


@pytest.mark.slow
def test_done_shards_need_neither_model_nor_engine(source, tmp_path):
    """A second artifact of the same sampler links its shards: the model directory may be gone, so
    nothing was opened.
    """
    model = shutil.copytree(TINY, tmp_path / "model")
    first = generated(config(), source, tmp_path / "store", model=model)
    shutil.rmtree(model)
    first.path.rename(tmp_path / "store" / "generate-other")
    model.mkdir()
    again = generated(config(), source, tmp_path / "store", model=model)
    assert again.tally.to_dict() == first.tally.to_dict()
    assert rows.shards(again.path)[0].samefile(
        tmp_path / "store/generate-other/rows" / rows.shards(again.path)[0].name
    )


@pytest.mark.slow
def test_the_sampler_is_what_shapes_a_sample(source, tmp_path):
    def fingerprint(name: str, **values) -> str:
        return generated(config(split="eval", **values), source, tmp_path / name).notes["sampler"][
            "fingerprint"
        ]

    plain = fingerprint("a")
    assert fingerprint("b", n=2) == plain
    assert fingerprint("c", seed=1) != plain
    assert fingerprint("d", system_prompt="Be brief.") != plain
    (tmp_path / "t.jinja").write_text((TINY / "chat_template.jinja").read_text())
    assert fingerprint("e", chat_template=str(tmp_path / "t.jinja")) == fingerprint(
        "f", chat_template=(tmp_path / "t.jinja").read_text()
    )


@pytest.mark.slow
def test_preferences_and_demonstrations_give_their_prompts(tmp_path):
    side = rows.messages("x", "assistant")
    more = {
        "preference": {"chosen": side, "rejected": side},
        "demonstration": {"completion": side, "response_lang": "eng_Latn"},
    }
    for kind, columns in more.items():
        rows.write_shard(
            tmp_path / kind / "rows" / rows.shard_name("eng_Latn", "train", 0),
            kind,
            [prompt_row("What is 1 + 1?", "k", "eng_Latn", **columns)],
        )
        (row,) = rows.read(generated(config(), tmp_path / kind, tmp_path / f"store-{kind}").path)
        assert row["prompt"] == rows.messages("What is 1 + 1?")
    rows.write_shard(
        tmp_path / "text" / "rows" / rows.shard_name("eng_Latn", "train", 0),
        "text",
        [{**prompt_row("", "k", "eng_Latn"), "text": "x"}],
    )
    with pytest.raises(
        UserError, match="holds text rows; generate reads prompt, demonstration, preference"
    ):
        generated(config(), tmp_path / "text", tmp_path / "store-text")


@pytest.mark.slow
def test_the_system_prompt_names_the_language_asked_for(source, tmp_path):
    cfg = config(split="eval", system_prompt="Answer in {language}.", response_lang="de")
    for row in rows.read(generated(cfg, source, tmp_path / "store").path):
        assert row["prompt"][0] == {"role": "system", "content": "Answer in German."}
        assert row["response_lang_requested"] == "deu_Latn"


@pytest.mark.slow
def test_reasoning_goes_to_its_own_column(source, tmp_path):
    """The prompt ends with the opening tag and no answer closes it: all of it is reasoning, and the
    answer counts as empty.
    """
    template = (TINY / "chat_template.jinja").read_text() + "<think>"
    out = generated(
        config(split="eval", chat_template=template, reasoning_tags=["<think>", "</think>"]),
        source,
        tmp_path / "store",
    )
    for row in rows.read(out.path):
        assert row["responses"][0]["text"] == ""
        assert row["responses"][0]["reasoning"] is not None
    assert out.tally.sums["empty"] == {"eng_Latn": 1, "swh_Latn": 1}


@pytest.mark.slow
def test_reasoning_tags_and_the_end_of_a_turn_are_the_template_s_own(source, tmp_path):
    """The tags are not configured.

    The end token is another than the tokenizer's, and the model writes it at once.
    """
    template = (TINY / "chat_template.jinja").read_text() + "{# </think> #}<think>"
    out = generated(config(split="eval", chat_template=template), source, tmp_path / "store")
    assert all(
        row["responses"][0]["text"] == "" and row["responses"][0]["reasoning"]
        for row in rows.read(out.path)
    )
    assert out.tally.sums["with_reasoning"] == {"eng_Latn": 1, "swh_Latn": 1}
    told = out.notes["template"]
    assert (
        told["reasoning_tags"] == ["<think>", "</think>"]
        and told["end_of_turn"]["text"] == "<|end|>"
    )
    assert (told["rendered_by"], told["writes_date"], told["date"]) == (
        "mlalign",
        False,
        "2024-07-26",
    )
    none = generated(
        config(split="eval", chat_template=template, reasoning_tags=[]), source, tmp_path / "none"
    )
    assert all(row["responses"][0]["text"] for row in rows.read(none.path))


@pytest.mark.slow
def test_a_prompt_that_the_template_leaves_out_in_part_is_counted(source, tmp_path):
    template = (
        (TINY / "chat_template.jinja")
        .read_text()
        .replace("messages", "(messages | rejectattr('role', 'equalto', 'system'))")
    )
    out = generated(
        config(split="eval", chat_template=template, system_prompt="Be brief."),
        source,
        tmp_path / "store",
    )
    assert out.tally.sums["prompt_partly_left_out"] == {"eng_Latn": 1, "swh_Latn": 1}


@pytest.mark.slow
def test_long_prompts_are_counted_and_an_empty_language_is_an_error(source, tmp_path):
    with rows.ShardWriter(tmp_path / "long", "prompt") as writer:
        writer.write_all(
            prompt_row("What is 1 + 1? " * times, str(times), "eng_Latn") for times in (1, 9)
        )
        writer.write(prompt_row("What is 1 + 1? " * 9, "9", "swh_Latn"))
    with pytest.raises(
        UserError,
        match=r"swh_Latn: no prompt is left \(1 prompt_too_long\); raise max_prompt_tokens",
    ):
        generated(config(max_prompt_tokens=20), tmp_path / "long", tmp_path / "store")
    marker = shards.marker_of(
        tmp_path / "store/generate-test.partial",
        rows.shards(tmp_path / "long", languages=["eng_Latn"])[0],
    )
    assert Tally(json.loads(marker.read_text())).dropped == {"prompt_too_long": {"eng_Latn": 1}}
    with pytest.raises(
        UserError, match="max_tokens: 2000 leaves no room for a prompt in a context of 1024"
    ):
        generated(config(max_tokens=2000), source, tmp_path / "store-2")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0, "n": 2}, "n: greedy decoding"),
        ({"n": 0}, "n: must be at least 1"),
        ({"top_p": 0.0}, "top_p: must be above 0"),
        ({"reasoning_tags": ["<think>"]}, "reasoning_tags: expected"),
        ({"engine": {"name": "openai"}}, "engine.base_url: missing"),
        (
            {"engine": {"name": "openai", "base_url": "http://x/v1"}, "chat_template": "{{ 1 }}"},
            "chat_template: engine=openai sends messages",
        ),
        ({"chat_template": "absent.jinja"}, "chat_template: there is no file"),
        ({"response_lang": "Klingonese"}, "Klingonese"),
    ],
)
def test_a_wrong_configuration_is_named_before_anything_starts(values, message):
    with pytest.raises(UserError, match=message):
        generate.identity(config(**values), str)


def test_a_sampling_argument_of_the_step_s_own_is_refused():
    with pytest.raises(UserError, match=r"c\.sampling\.temperature: set temperature on the step"):
        config(sampling={"temperature": 1})


def test_missing_template_tokenizer_and_split_name_the_mend(source, tmp_path):
    bare = shutil.copytree(
        TINY, tmp_path / "bare", ignore=shutil.ignore_patterns("chat_template.jinja")
    )
    with pytest.raises(UserError, match="has no chat template"):
        generated(config(), source, tmp_path / "a", model=bare)
    (bare / "tokenizer.json").unlink()
    (bare / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        generated(config(), source, tmp_path / "b", model=bare)
    for shard in rows.shards(source, "eval"):
        shard.unlink()
    with pytest.raises(UserError, match="no rows of split 'eval'"):
        generated(config(split="eval"), source, tmp_path / "c")


@pytest.mark.slow
def test_finished_shards_survive_a_server_that_goes_away(source, tmp_path):
    pytest.importorskip("openai")
    left = [6]  # requests until the server fails

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            left[0] -= 1
            message = {"role": "assistant", "content": str(asked["seed"])}
            reply = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            }
            data = json.dumps(reply).encode()
            self.send_response(200 if left[0] >= 0 else 503)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {
        "name": "openai",
        "base_url": f"http://127.0.0.1:{server.server_port}/v1",
        "max_retries": 0,
    }
    with pytest.raises(UserError, match="503"):
        generated(config(engine=settings), source, tmp_path / "store")
    partial = tmp_path / "store" / "generate-test.partial"
    assert len(shards.pending(rows.shards(source, "train"), partial)) == 3
    time.sleep(0.5)  # requests that were under way when the server failed
    left[0] = 12
    out = generated(config(engine=settings), source, tmp_path / "store")
    server.shutdown()
    server.server_close()
    texts = [
        (r["candidate_id"], r["text"]) for row in rows.read(out.path) for r in row["responses"]
    ]
    assert texts == [(name, str(rows.seed_of(name))) for name, _ in texts]
    assert out.tally.sums["responses_without_token_count"] == {"eng_Latn": 8, "swh_Latn": 8}


@pytest.mark.slow
def test_vllm_goes_on_after_a_kill_and_equals_the_unbroken_run(source, tmp_path):
    pytest.importorskip("vllm")
    cfg = config(n=2, engine={"name": "vllm", "args": {"max_model_len": 64}})
    whole = generated(cfg, source, tmp_path / "store")
    before = content(whole)
    assert whole.notes["sampler"]["seed_guarantee"] is True
    lost = rows.shards(source, "train")[1]
    shards.marker_of(whole.path, lost).unlink()
    shutil.rmtree(tmp_path / "store" / ".shards")
    (whole.path / "rows" / lost.name).write_bytes(b"half of a file")
    assert content(generated(cfg, source, tmp_path / "store")) == before
