"""The stage `pairs` with methods that see all languages of an item, and with several samplers."""

import shutil
from pathlib import Path

import pytest

from mlalign.core import rows, schema, stage, store
from mlalign.core.errors import UserError
from mlalign.data import groups
from mlalign.stages import pairs

EN, SW, YO = "eng_Latn", "swh_Latn", "yor_Latn"
# group -> language -> the responses' texts
ITEMS = {
    "g0": {EN: ["4", "5"], SW: ["4", "4", "7"]},
    "g1": {EN: ["1", "2"], SW: ["2", "1"]},
    "g2": {EN: ["9", "9"]},
    "g3": {EN: ["3", "8"], SW: ["3", "3"], YO: ["3", "6"]},
}


def write(
    root: Path, order: list[tuple[str, str]], shard_rows: int = 1024, sampler: str = "s"
) -> dict:
    """Candidates and scores of (group, language) in this order. Returns the inputs of the stage."""
    candidates, scores = {}, {}
    for group, language in order:
        common = {
            "id": rows.row_id("src", group, language), "group_id": group, "prompt_lang": language,
            "source": "src", "origin": "native", "split": "train",
        }  # fmt: skip
        answers = ITEMS[group][language]
        ids = [rows.candidate_id(common["id"], sampler, k) for k in range(len(answers))]
        responses = [
            {"candidate_id": c, "text": text} for c, text in zip(ids, answers, strict=True)
        ]
        candidates.setdefault(language, []).append(
            {
                **common,
                "prompt": rows.messages(f"{group}?"),
                "response_lang_requested": language,
                "responses": responses,
                "reference": f'"{group}"',
            }
        )
        marks = {"response_lang_detected": language, "score.language_adherence": 1.0}
        scores.setdefault(language, []).extend({**common, "candidate_id": c, **marks} for c in ids)
    for language, prompts in candidates.items():
        for i in range(0, len(prompts), shard_rows):
            name = rows.shard_name(language, "train", i // shard_rows)
            part = prompts[i : i + shard_rows]
            own = {r["candidate_id"] for row in part for r in row["responses"]}
            rows.write_shard(root / "candidates/rows" / name, "candidates", part)
            marks = [s for s in scores[language] if s["candidate_id"] in own]
            rows.write_shard(root / "scores/rows" / name, "scores", marks, ("language_adherence",))
    return {"rows": {"path": str(root / "candidates")}, "scores": {"path": str(root / "scores")}}


def order() -> list[tuple[str, str]]:
    return [(group, language) for group, languages in ITEMS.items() for language in languages]


def run(
    root: Path, slots: dict, out: stage.Output | None = None, **config
) -> tuple[stage.Output, list[dict]]:
    out = out or stage.Output(root / "out.partial", store.Store(root), step="pairs")
    out.path.mkdir(exist_ok=True)
    pairs.run(schema.build(pairs.Config, config), stage.Inputs(out.store, slots), out)
    return out, list(rows.read(out.path))


def files(out: stage.Output) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in rows.shards(out.path)}


def told(row: dict) -> tuple:
    return (
        row["group_id"],
        row["prompt_lang"],
        rows.text_of(row["chosen"]),
        rows.text_of(row["rejected"]),
        row["margin"],
    )


def test_a_vote_over_languages_end_to_end(tmp_path):
    out, made = run(tmp_path, write(tmp_path, order()), method="majority_vote")
    assert sorted(map(told, made)) == [
        ("g0", EN, "4", "5", pytest.approx(0.4)),
        ("g0", SW, "4", "7", pytest.approx(0.4)),
        ("g0", SW, "4", "7", pytest.approx(0.4)),
        ("g3", EN, "3", "8", pytest.approx(0.5)),
        ("g3", YO, "3", "6", pytest.approx(0.5)),
    ]
    assert out.tally.to_dict()["rows"] == {EN: 2, SW: 2, YO: 1}
    assert out.tally.to_dict()["dropped"] == {
        "tie between answers": {EN: 1, SW: 1},
        "fewer than 2 languages": {EN: 1},
        "the method made nothing in this language": {SW: 1},
    }
    assert {p.name for p in rows.shards(out.path)} == {
        rows.shard_name(language, "train", 0) for language in (EN, SW, YO)
    }
    assert made[0]["prompt"] == rows.messages(f"{made[0]['group_id']}?")


@pytest.mark.slow
def test_the_result_does_not_depend_on_shards_or_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "SLICE_ROWS", 3)
    outputs = []
    for i, (rows_in_order, shard_rows) in enumerate(
        [(order(), 1024), (order()[::-1], 1), (order()[::-1], 2)]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        out, made = run(folder, write(folder, rows_in_order, shard_rows), method="majority_vote")
        assert len(made) == 5
        outputs.append((files(out), out.tally.to_dict()))
    assert outputs[0] == outputs[1] == outputs[2]
    assert {name.split(".")[2] for name in outputs[0][0]} != {"00000"}  # several slices


def test_a_stopped_step_keeps_its_slices(tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "SLICE_ROWS", 3)
    slots = write(tmp_path, order())
    whole, _ = run(tmp_path, slots, method="majority_vote")
    expected = files(whole), whole.tally.to_dict()
    shutil.rmtree(whole.path)

    out = stage.Output(tmp_path / "out.partial", store.Store(tmp_path), step="pairs")
    out.path.mkdir()
    (out.path / "STOP").touch()
    with pytest.raises(stage.Stopped):
        run(tmp_path, slots, out, method="majority_vote")
    (out.path / "STOP").unlink()
    first = sorted((out.checkpoints / "groups").glob("?????.json"))
    assert len(first) == 1
    before = first[0].stat().st_mtime_ns

    again = stage.Output(tmp_path / "out.partial", store.Store(tmp_path), step="pairs")
    run(tmp_path, slots, again, method="majority_vote")
    assert (files(again), again.tally.to_dict()) == expected
    assert first[0].stat().st_mtime_ns == before


def test_a_slice_whose_files_were_damaged_is_made_again(tmp_path):
    slots = write(tmp_path, order())
    out, _ = run(tmp_path, slots, method="majority_vote")
    expected = files(out)
    damaged = rows.shards(out.path)[0]
    damaged.write_bytes(b"something else")
    again = stage.Output(tmp_path / "out.partial", store.Store(tmp_path), step="pairs")
    run(tmp_path, slots, again, method="majority_vote")
    assert files(again) == expected


OWN = '''
from mlalign.methods.pairing import Group, Pair


def english_over(group: Group, *, seed: int = 0) -> list[Pair] | str:
    """English is chosen over the target language, for the target's prompt."""
    if "eng_Latn" not in group.candidates:
        return "no English"
    english = group.candidates["eng_Latn"][0]
    return [
        Pair(english, scored[0], 1.0, prompt_language=language)
        for language, scored in group.candidates.items()
        if language != "eng_Latn"
    ]


def broken(group):
    return group.candidates["xxx_Latn"]


def elsewhere(group):
    english = group.candidates["eng_Latn"]
    return [Pair(english[0], english[1], 1.0, prompt_language="fra_Latn")]


def by_sampler(scored):
    first, second = [c for c in scored if c.sampler == "a"], [c for c in scored if c.sampler == "b"]
    return [Pair(first[0], second[-1], 1.0)] if first and second else "one sampler only"


def what_it_sees(group):
    assert group.prompts["eng_Latn"] == [{"role": "user", "content": f"{group.id}?"}]
    assert group.references["eng_Latn"] == f'"{group.id}"'
    assert list(group.candidates) == sorted(group.candidates)
    return [group.candidates["eng_Latn"][0]]
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_groups.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def test_pairs_across_languages_name_the_prompt(tmp_path, own):
    _, made = run(tmp_path, write(tmp_path, order()), method="own_groups:english_over")
    assert [told(row)[:4] for row in made] == [("g1", SW, "1", "2")]  # elsewhere both are one text
    assert [(row["chosen_lang"], row["rejected_lang"], row["prompt_lang"]) for row in made] == [
        (EN, SW, SW)
    ]


def test_a_group_has_prompts_and_references(tmp_path, own):
    out, made = run(tmp_path, write(tmp_path, order()), method="own_groups:what_it_sees")
    assert rows.kind_of(out.path) == "demonstration"
    assert sorted(rows.text_of(row["completion"]) for row in made) == ["1", "3", "4", "9"]


def test_an_error_in_a_method_names_group_file_and_line(tmp_path, own):
    with pytest.raises(
        UserError, match=r"group g\d: method own_groups:broken: .*own_groups\.py:18: KeyError"
    ):
        run(tmp_path, write(tmp_path, order()), method="own_groups:broken")
    with pytest.raises(UserError, match="names the prompt of fra_Latn, which its group lacks"):
        run(tmp_path, write(tmp_path, order()), method="own_groups:elsewhere")


def test_candidates_of_several_samplers_are_joined_by_prompt(tmp_path, own):
    slots: dict[str, list] = {"rows": [], "scores": []}
    for name in ("a", "b"):
        one = write(tmp_path / name, order(), sampler=name)
        slots["rows"].append({**one["rows"], "name": name})
        slots["scores"].append(one["scores"])
    _, made = run(tmp_path, slots, method="own_groups:by_sampler")
    assert ("g0", EN, "4", "5", 1.0) in map(told, made)
    assert ("g3", YO, "3", "6", 1.0) in map(told, made)
    with pytest.raises(UserError, match="1 scores for 2 candidates"):
        run(tmp_path, {**slots, "scores": slots["scores"][:1]}, method="own_groups:by_sampler")


def test_plan_counts_scores_and_candidates():
    from mlalign.core import kinds

    given = {
        "rows": [kinds.Gives("candidates")] * 2,
        "scores": [kinds.Gives("scores", ("language_adherence",))],
    }
    cfg = schema.build(pairs.Config, {})
    assert kinds.problems(pairs, "pairs", cfg, given, "steps.p") == [
        "steps.p.inputs.scores: 1 scores for 2 candidates; give the scores of each step in `rows`,"
        " in the same order"
    ]
